"""Files, random streams, signals, text."""
