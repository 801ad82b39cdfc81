"""Built-in tasks that a small model learns in minutes."""
