"""Benchmarks: contenders do the same work side by side in one process, in turns."""
