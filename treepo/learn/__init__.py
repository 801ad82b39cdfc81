"""Learning: from credited trees to a better policy."""
