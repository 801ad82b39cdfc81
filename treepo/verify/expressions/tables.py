"""Tables written as text: words, and names with what stands for them."""


def words_of(text: str) -> frozenset[str]:
    """The words of a text."""
    return frozenset(text.split())


def table_of(text: str) -> dict[str, str]:
    """What stands for each word: a line has the name, a colon, and the words that stand for it."""
    rows = [line.partition(": ") for line in text.splitlines() if line.strip()]
    return {word: name.strip() for name, _, words in rows for word in words.split()}
