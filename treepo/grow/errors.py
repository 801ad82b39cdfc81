"""What is raised when a strategy cannot work."""


class StrategyError(ValueError):
    """A strategy asked for or returned something impossible; the message names it."""
