"""A run as it trains: its state followed on disk, shown in the terminal or served as a page."""
