"""What a run tells: metrics, progress, the table at its end."""
