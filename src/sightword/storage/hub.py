"""Models at Hugging Face by their names, owner/name, in the cache of this machine."""

import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TypedDict, Unpack

from sightword.errors import MissingFileError


class HubOptions(TypedDict, total=False):
    """Options of a download, as `huggingface_hub.snapshot_download` takes them."""

    revision: str | None  # a branch, a tag or a commit; None: the main branch
    token: str | bool | None
    cache_dir: str | Path | None
    local_files_only: bool
    force_download: bool


def fetched(name: str | Path, files: Iterable[str], **options: Unpack[HubOptions]) -> Path:
    """Return a local folder; for a Hugging Face name its folder in the cache, after fetching `files` (patterns).

    Without a network the cache is used as it is. Raises MissingFileError if the model is not in it. One request for the
    whole repository fails at once, while requests for single files would be repeated for 23 s.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise MissingFileError(f"{name} is a file; name the folder that it is in")
    if not re.fullmatch(r"[\w-][\w.-]*(/[\w.-]+)?", str(name)):
        raise MissingFileError(
            f"there is no folder {name}, it does not exist; name one, or a model at Hugging Face (owner/name)"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), allow_patterns=list(files), **options))
    except Exception as error:  # hub, disk and network each have their own
        raise MissingFileError(
            f"{name} is no folder, nor on this machine, and could not be fetched ({reason(error)}): name a folder, or "
            f"fetch it where there is a network, hf download {name}"
        ) from error


def reason(error: BaseException) -> str:
    """An error of many lines in one."""
    if isinstance(error, pickle.UnpicklingError):  # torch's own would have the reader load it all the same
        return "it is a pickle of more than tensors, which may run code; have it saved as model.safetensors"
    return " ".join(str(error).split())[:200] or type(error).__name__
