"""Texts of requests."""

from typing import Annotated, TypeAlias

from pydantic import AfterValidator


def _whole(text: str) -> str:
    """Return a text. Raises ValueError for half of a surrogate pair, which no text encoder takes, and for a zero."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair is no letter. Send UTF-8") from None
    if "\0" in text:
        raise ValueError("a zero byte is no letter")
    return text


#: A text that can be encoded.
Text: TypeAlias = Annotated[str, AfterValidator(_whole)]
