"""Learning: from compute_advantages trees to a better policy."""
