"""Text from outside, made safe to print."""


def printable(text: str) -> str:
    """The text with every character that is not printable, line breaks too, as its escape sequence: `\\x1b`."""
    return "".join(c if c.isprintable() else f"{c!a}"[1:-1] for c in text)
