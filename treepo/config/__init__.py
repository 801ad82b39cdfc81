"""Settings: declared, read from recipes and the command line, documented."""
