"""The command line: one file per command, which parses its arguments and runs it."""
