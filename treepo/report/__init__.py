"""What a run tells: metrics, trees, charts, a page, a live view."""
