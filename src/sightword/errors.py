"""Errors in what the user gave. Any other exception at the command line is a defect of Sightword."""


class SightwordError(ValueError):
    """An error in what the user gave: a file, a folder, an argument or a setting.

    The message is one line: what is wrong, the value, and what to do. The command line prints it without a traceback
    and exits with status 2. It derives from ValueError so that code that calls the library can catch either.
    """


class MissingFileError(SightwordError, FileNotFoundError):
    """A file or folder that the user named, or that a named folder should contain, does not exist."""


class Diverged(SightwordError):
    """Losses, weights or features are not finite any more."""


class Unfinished(SightwordError):
    """A command did what it could, and something is left undone. The command line exits with status 1.

    Raise it at the end of a command, after everything else is done and said: `2 of 5 scenes were not lifted`.
    """


def printable(text: str) -> str:
    """Return a text as one line that is safe to print in a terminal.

    White space is collapsed; control characters, other unprintable characters and lone surrogates become escapes.
    """
    line = " ".join(text.split())
    return line if line.isprintable() else "".join(_escaped(letter) for letter in line)


def _escaped(letter: str) -> str:
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
