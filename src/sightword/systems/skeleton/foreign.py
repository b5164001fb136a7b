"""What a file looks like that is not of annotations and of none of `formats`, for the message that refuses it.

Nothing in the file is executed; its beginning is read, and of JSON as much as is cheap.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path

BEGINNING = 2**16  # bytes
WHOLE = 2**26  # bytes of a JSON file that is parsed; of a larger one the keys of the beginning are named


def describe_file(path: Path) -> str:
    """Return what a file looks like, as "JSON as OpenPose writes it, …"; empty if that cannot be told."""
    try:
        with path.open("rb") as file:
            start = file.read(BEGINNING)
        size = path.stat().st_size
    except OSError:
        return ""
    if not size:
        return "an empty file"
    for magic, what in MAGIC:
        if start.startswith(magic):
            return what
    if start[4:8] == b"ftyp" or start[:4] == b"\x1aE\xdf\xa3" or (start[:4], start[8:12]) == (b"RIFF", b"AVI "):
        return "a video: sightword skeletons video=… out=… makes annotations of it"
    if start.lstrip()[:1] in (b"{", b"["):
        return _describe_json(path, start, size)
    if b"\0" not in start and start.isascii() and not start.startswith((b"(", b"c")):  # as pickles of protocol 0 do
        table = (
            ", and no CSV of MediaPipe: its first line has nose_x,nose_y,… or x0,y0,…" if path.suffix == ".csv" else ""
        )
        return f"text, beginning with {start.decode().split(chr(10))[0][:40]!r}{table}"
    return ""


MAGIC = (
    (
        b"\x93NUMPY",
        "one NumPy array, .npy, and not of key points: these are numbers of 3 to 5 axes, one of them 2 or 3",
    ),
    (b"PK\x03\x04", "a zip archive, as np.savez or torch.save have: give an .npz that suffix"),
    (b"\x1f\x8b", "compressed by gzip: unpack it first"),
    (b"\x89HDF", "HDF5"),
    (b"version https://git-lfs", "a pointer of Git LFS: the file itself was not fetched"),
    (b"<", "HTML or XML: a page instead of the file"),
)


def _describe_json(path: Path, start: bytes, size: int) -> str:
    try:
        content: object = json.loads(path.read_bytes()) if size <= WHOLE else None
    except (ValueError, RecursionError):
        return "damaged JSON"
    first = content[0] if isinstance(content, list) and content else content
    keys = set(first) if isinstance(first, Mapping) else set(re.findall(r'"(\w+)"\s*:', start.decode("latin1")))
    for wanted, what in WRITERS:
        if wanted <= keys:
            return f"JSON as {what}"
    return f"JSON with {', '.join(sorted(keys)[:6])}" if keys else "JSON"


WRITERS = (({"joints", "limbs"}, "a joint set is"),)  # keys of the content, or of the first item of a list
