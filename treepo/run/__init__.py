"""Runs: built from settings, trained, resumed, evaluated."""
