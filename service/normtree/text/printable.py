"""Texts of strangers, made fit to be shown: no name steers a terminal, and none hides what it is."""


def printable(text: str) -> str:
    r"""Return a text in which what does not print stands as its escape: ``\x1b``, ``\u202e``, ``\udce9``, ``\n``."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def printable_lines(text: str) -> str:
    """Do so line by line: the ends of the lines are ours."""
    return "\n".join(map(printable, text.split("\n")))
