"""What a server is told: its models, its data, its address and its limits. No torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

MIB = 1 << 20


@dataclass(frozen=True)
class Limits:
    """What one request may have and cost."""

    body: int = 20 * MIB  # bytes of an upload
    json: int = 4 * MIB  # bytes of a JSON body
    pixels: int = 40_000_000  # of a picture, before anything of it is decoded
    side: int = 1024  # pixels of the longer side of what the tokenizer encodes
    text: int = 1000  # characters of a text
    items: int = 64  # texts, labels or pictures of a request
    top: int = 100  # results of a search
    frames: int = 2000  # of a recording
    keypoints: int = 400_000  # numbers in a recording
    points: int = 100_000  # of a cloud that is sent
    waiting: int = 256  # requests of a model that wait; one more is refused
    open: int = 512  # connections at a time
    batch: int = 32  # requests that are computed together, at most
    seconds: float = 60.0  # from a request to its answer
    galleries: int = 8  # that uploads make
    gallery: int = 20_000  # pictures of a folder that are encoded at the start


@dataclass(frozen=True)
class Sources:
    """The files that may be read and shown: nothing else of the file system is."""

    images: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)  # system → folders of sample pictures
    gallery: tuple[Path, ...] = ()  # folders of images, or those that sightword index wrote
    clips: Path | None = None  # an annotation file of recordings
    scenes: tuple[Path, ...] = ()  # folders of scenes
    texts: Path | None = None  # a JSON file of classes that no recording of training has, as samples of own words

    def folders(self) -> list[Path]:
        """Return all of them."""
        single = [path for path in (self.clips, self.texts) if path is not None]
        return [*(folder for each in self.images.values() for folder in each), *self.gallery, *self.scenes, *single]


@dataclass(frozen=True)
class Settings:
    """A server's settings."""

    models: tuple[str, ...]  # run directories, exported folders or hub ids
    sources: Sources = Sources()
    host: str = "127.0.0.1"
    port: int = 8000
    token: str = ""  # that every request but the page's own files has to bring; empty: none
    names: tuple[str, ...] = ()  # hosts that a browser may call this server, with or without a port
    threads: int = 1  # of a model
    limits: Limits = Limits()
