"""Write annotations in pyskl's form: as its pickle, or as our .npz. `annotations` reads both.

    {"split": {name: [frame_dir, …]}, "joints": [names], "annotations": [{frame_dir, total_frames, img_shape, …}, …]}

Of these pyskl does not have "joints", which our readers take from it.

Legend: M persons, T frames, V joints of a recording.
"""

import pickle
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from sightword.errors import SightwordError
from sightword.storage.atomic import write_atomically
from sightword.storage.writer import write_json
from sightword.systems.skeleton.annotations import Contents, Recordings, halved, write_npz
from sightword.systems.skeleton.joints import JointSet
from sightword.systems.skeleton.sequence import Annotation, Empty, Malformed, few, parse_annotation
from sightword.version import VERSION

Row = dict[str, object]  # one recording as pyskl's pickle has it


def row_of(annotation: Annotation, **extra: object) -> Row:
    """Return an annotation as a row of the file; without a label if it is not known.

    extra: what else a row has, as fps (float, frames in a second) or ids (list of M numbers, who each person is).
    """
    row: Row = {"frame_dir": annotation.name, "total_frames": annotation.points.shape[1]}
    if annotation.shape is not None:
        row |= {"img_shape": annotation.shape, "original_shape": annotation.shape}
    if annotation.label >= 0:
        row["label"] = annotation.label
    row["keypoint"] = halved(annotation.points)
    if annotation.scores is not None:
        row["keypoint_score"] = halved(annotation.scores)
    if annotation.key is not None:
        row["key_moments"] = annotation.key
    return row | extra


def write_annotations(
    rows: Sequence[Mapping[str, object]],
    path: str | Path,
    splits: Mapping[str, Sequence[str]] = {},
    joints: JointSet | None = None,
    notes: Sequence[str] = (),
) -> Path:
    """Write recordings to a .pkl in pyskl's form or to our .npz, by the ending of `path`; `row_of` makes the rows.

    An .npz has the recordings in pixels, 3-D ones from the front, and only what `write_npz` names. notes: what was
    assumed on import, written as JSON to `<path>.json`. An older file is overwritten.

    Raises SightwordError for another ending, no rows, a row that readers refuse, or a name that is there twice. Rows
    without persons are written, and left out by readers.
    """
    path = Path(path)
    if path.suffix not in (".pkl", ".npz"):
        raise SightwordError(f"{path} is not a file of annotations. Give it a name that ends in .pkl or .npz")
    checked(rows, path)
    named = {name: [str(own) for own in names] for name, names in splits.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        write_npz(Recordings(path, Contents(rows, named, joints)), path)
    else:
        content: Row = {"split": named, "annotations": [dict(row) for row in rows]}
        if joints is not None:
            content["joints"] = list(joints.joints)
        with write_atomically(path) as beside, beside.open("wb") as file:
            pickle.dump(content, file, protocol=4)
    if notes:
        note = {"written by": f"sightword {VERSION}", "file": path.name, "recordings": len(rows), "notes": list(notes)}
        write_json(notes_of(path), note)
    return path


def notes_of(path: Path) -> Path:
    """Return the file of what was assumed when annotations were written: clip.pkl → clip.pkl.json."""
    return path.with_name(f"{path.name}.json")


def checked(rows: Sequence[Mapping[str, object]], path: Path) -> None:
    """Raise SightwordError unless there are rows, each in the right form and with a name of its own."""
    if not rows:
        raise SightwordError(f"there are no recordings to write to {path}")
    names = []
    for number, row in enumerate(rows):
        try:
            names.append(parse_annotation(row).name)
        except Empty:
            names.append(str(row["frame_dir"]))
        except Malformed as error:
            raise SightwordError(f"recording {number} {error}, and is not written to {path}") from None
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise SightwordError(f"{len(twice)} names are those of several recordings: {few(twice)}. Rename one of each")
