"""A JSON object, path of an image → caption, or a list of them; LUPerson-MLLM is four of these.

Their paths differ in the folders and agree in the last part, by which captions of one image are joined.
"""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from sightword.errors import SightwordError
from sightword.storage.fields import Fields
from sightword.systems.retrieval.formats.pair import Pair, Pairs


def is_mapping(content: Fields) -> bool:
    """Return whether the first values of a JSON object are captions, and its keys paths of images."""
    first = list(content)[:3]
    return bool(first) and all("." in name and isinstance(content.value(name), str | list) for name in first)


def read_mapping(file: Path, content: Fields) -> Pairs:
    """Return the images of a JSON object, in its order."""
    pairs, problems = [], []
    for path in content:
        try:
            pairs.append(Pair(path.replace("\\", "/"), content.texts(path, alone=True), f"[{path!r}] "))
        except SightwordError as error:
            problems.append(error)
    return Pairs(file, pairs, "path → captions, each image another person, no split", problems, joins=True)


def joined(files: Sequence[Pairs]) -> Pairs:
    """Return several files as one: captions of the same last part of a path are of one image, as in the first file.

    Raises SightwordError if two images of a file have the same last part.
    """
    found: dict[str, Pair] = {}
    for content in files:
        names = [PurePosixPath(pair.path).name for pair in content.pairs]
        if len(set(names)) < len(names):
            twice = next(name for number, name in enumerate(names) if name in names[:number])
            raise SightwordError(
                f"{content.file} has several images called {twice}, so that captions of several files cannot be joined "
                f"by that name. Pass one file: root={content.file}"
            )
        for name, pair in zip(names, content.pairs, strict=True):
            before = found.get(name, pair._replace(captions=[]))
            found[name] = before._replace(captions=[*before.captions, *pair.captions])
    named = ", ".join(content.file.name for content in files)
    how = f"{named} joined by the last part of their paths, each image another person, no split"
    problems = [problem for content in files for problem in content.problems]
    return Pairs(files[0].file, list(found.values()), how, problems)
