"""A run as it goes on: its state followed on disk, shown in the terminal or served as a page."""
