"""Runs as one HTML file that opens from disk: what it holds (the payload), and how it is put together."""
