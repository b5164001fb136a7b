"""Standard output and error streams that a job outlives.

A closed pipe is no reason to stop: from then on what is printed is dropped. A full disk under a stream is remembered,
and the command ends with status 1. A stream that is closed at the start is replaced. What the terminal cannot encode
is shown by a replacement character, and control characters are shown escaped, as file names can contain them.
"""

import contextlib
import errno
import io
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, TextIO, cast

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_GONE = {errno.EPIPE, errno.EIO, errno.EBADF, errno.ECONNRESET, errno.ESHUTDOWN, errno.ENXIO}  # nobody reads any more
_CONTROLS = [*range(32), *range(127, 160)]
#: Control characters → escapes. Bars on stderr need the carriage return.
_ESCAPES = {code: f"\\x{code:02x}" for code in _CONTROLS if chr(code) not in "\n\t"}


class _Raw(Protocol):
    """The methods of the file below a stream that are used."""

    def write(self, data: "ReadableBuffer", /) -> int | None: ...

    def fileno(self) -> int: ...

    def isatty(self) -> bool: ...


class _Lasting(io.RawIOBase):
    """A raw stream whose writes always succeed; `failure` is what one of them met."""

    def __init__(self, raw: _Raw) -> None:
        self.raw, self.gone = raw, False
        self.name = getattr(raw, "name", "")
        self.failure: OSError | None = None

    def write(self, data: "ReadableBuffer", /) -> int | None:
        view = memoryview(data)
        if self.gone:
            return view.nbytes
        try:
            return self.raw.write(view)
        except OSError as error:
            self.gone = True
            if error.errno not in _GONE:
                self.failure = error
        return view.nbytes

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.raw.fileno()

    def isatty(self) -> bool:
        return self.raw.isatty()


class _Text(io.TextIOWrapper):
    """A text stream that escapes control characters."""

    def __init__(self, raw: _Lasting, encoding: str, escapes: dict[int, str]) -> None:
        self.lasting, self.escapes = raw, escapes
        line_buffering = raw.isatty() or raw.raw.fileno() == 2
        super().__init__(io.BufferedWriter(raw), encoding, "replace", line_buffering=line_buffering)

    def write(self, text: str, /) -> int:
        if not text.isprintable():
            text = text.translate(self.escapes)
        return super().write(text)


class Streams:
    """The two streams of a command."""

    def __init__(self, streams: list[_Text]) -> None:
        self._streams = streams

    def failure(self) -> OSError | None:
        """Return why something that was printed is lost, a closed pipe aside; None if nothing is."""
        for stream in self._streams:
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        return next((stream.lasting.failure for stream in self._streams if stream.lasting.failure), None)


@contextlib.contextmanager
def lasting_streams() -> Iterator[Streams]:
    """Replace sys.stdout and sys.stderr within the block, except where somebody else has replaced them already."""
    before = sys.stdout, sys.stderr
    made: list[_Text] = []
    try:
        for number, name in ((1, "stdout"), (2, "stderr")):
            stream: TextIO | None = getattr(sys, name)
            if stream is None or stream is getattr(sys, f"__{name}__"):
                made.append(_lasting(stream, number))
                setattr(sys, name, made[-1])
        yield Streams(made)
    finally:
        for text in made:
            with contextlib.suppress(OSError, ValueError):
                text.flush()
        sys.stdout, sys.stderr = before


def _lasting(stream: TextIO | None, number: int) -> _Text:
    escapes = _ESCAPES if number == 1 else {code: text for code, text in _ESCAPES.items() if code != ord("\r")}
    if stream is None:
        return _Text(_Lasting(_nowhere(number)), "utf-8", escapes)
    with contextlib.suppress(OSError):
        stream.flush()
    buffer = getattr(stream, "buffer", None)
    raw = cast("_Raw", getattr(buffer, "raw", buffer) or _nowhere(number))
    return _Text(_Lasting(raw), stream.encoding or "utf-8", escapes)


def _nowhere(number: int) -> io.FileIO:
    """Open the null device under a stream's own number, so that no file of ours gets that and a library's messages."""
    descriptor = os.open(os.devnull, os.O_WRONLY)
    if descriptor != number:
        try:
            os.fstat(number)
        except OSError:  # the number is free
            os.dup2(descriptor, number)
            os.close(descriptor)
            descriptor = number
    return io.FileIO(descriptor, "w", closefd=False)
