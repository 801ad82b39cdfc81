"""What goes wrong before anything is judged."""


class StartError(ValueError):
    """No worker can judge with this checker; the message names the setting, in one line."""
