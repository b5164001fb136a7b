"""The models of a server: each is loaded in the background, in the thread that then computes for it."""

import asyncio
import gc
import sys
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

from sightword.engine.predictor import Predictor, load, place_of
from sightword.errors import SightwordError, printable
from sightword.serve.batch import Compute, Worker
from sightword.serve.metric import Meter
from sightword.serve.problem import Problem
from sightword.serve.setting import Limits, Settings, Sources

ServiceT = TypeVar("ServiceT", bound="Service")
ItemT = TypeVar("ItemT")
AnswerT = TypeVar("AnswerT")


OPEN = 8  # pictures of requests that are decoded at a time; the others wait as files


class Service(Protocol):
    """What a system does with requests, in the thread of its model."""

    notes: list[str]  # what is wrong with its data; the model answers without them

    def describe(self) -> Mapping[str, object]:
        """Return what a client has to know of it: classes, samples, galleries."""
        ...


class MakeService(Protocol):
    """Makes a service of a predictor; reads the sources that it needs."""

    def __call__(self, predictor: Predictor, sources: Sources, limits: Limits) -> Service: ...


class Model:
    """A model of a server: its name, its thread, and its state."""

    def __init__(self, name: str, system: str, path: str, worker: Worker) -> None:
        self.name, self.system, self.path, self.worker = name, system, path, worker
        self.state, self.detail, self.seconds = "loading", "", 0.0  # loading, ready or failed; why; to load it
        self.notes: list[str] = []  # of its service, without paths
        self.predictor: Predictor | None = None
        self.service: Service | None = None

    def describe(self) -> dict[str, object]:
        """Return what /v1/models says of it."""
        told: dict[str, object] = {"name": self.name, "system": self.system, "state": self.state}
        if self.detail:
            told["detail"] = self.detail
        if self.predictor is not None and self.service is not None:
            training = self.predictor.training
            told |= {"domain": self.predictor.domain, "experiment": training.experiment, "metrics": training.metrics}
            told |= {"seconds_to_load": round(self.seconds, 2), **self.service.describe(), "notes": self.notes}
        return told


class House:
    """All models of a server."""

    def __init__(self, settings: Settings, services: Mapping[str, MakeService], meter: Meter) -> None:
        """services: system → what makes its service. Raises SightwordError if a path is not a model."""
        self.settings, self.services = settings, services
        places = [(path, place_of(path)) for path in settings.models]
        names = _unique([str(place.folder) for _, place in places])
        pairs = zip(names, places, strict=True)
        self.models = [Model(name, place.system, path, self._worker(name, meter)) for name, (path, place) in pairs]
        self._paths = _names_of_paths([*settings.models, *map(str, settings.sources.folders())])
        self.room = asyncio.Semaphore(OPEN)
        self._loading: asyncio.Task[None] | None = None

    def _worker(self, name: str, meter: Meter) -> Worker:
        limits = self.settings.limits

        def observe(size: int) -> None:
            meter.sizes.observe(size, name)

        return Worker(name, limits.waiting, limits.batch, limits.seconds, observe)

    def start(self) -> None:
        """Load the models, one after the other, while requests are answered already."""
        self._loading = asyncio.create_task(self._load())

    async def stop(self) -> None:
        """Compute nothing more."""
        if self._loading is not None:
            self._loading.cancel()
        for model in self.models:
            model.worker.stop()

    @property
    def is_ready(self) -> bool:
        """Whether no model is loading any more, and one is ready at least."""
        states = {model.state for model in self.models}
        return "loading" not in states and "ready" in states

    def of(self, system: str, kind: type[ServiceT], name: str = "") -> "Ready[ServiceT]":
        """Return a system's model by its name, or its first. Raises Problem if there is none, or it is not ready."""
        own = [model for model in self.models if model.system == system]
        found = [model for model in own if name in ("", model.name)]
        if not found:
            listed = f"there are {', '.join(model.name for model in own)}" if own else "none is loaded"
            raise Problem(
                404, f"there is no model {name[:80]!r} of {system}; {listed}" if name else NONE.format(system)
            )
        model = next((one for one in found if one.state == "ready"), found[0])
        if model.state == "loading":
            raise Problem(503, f"{model.name} is still loading", {"Retry-After": "2"})
        if not isinstance(model.service, kind):
            raise Problem(503, f"{model.name} could not be loaded: {model.detail}")
        return Ready(model, model.service, self._paths)

    async def _load(self) -> None:
        for model in self.models:
            began = time.perf_counter()
            try:
                predictor, service = await model.worker.call(partial(self._open, model))
                model.predictor, model.service = predictor, service
                model.notes = [printable(_renamed(note, self._paths)) for note in service.notes]
                model.state, model.seconds = "ready", time.perf_counter() - began
                for note in service.notes:
                    print(f"{model.name}: {printable(note)}", file=sys.stderr)
                print(f"{model.name}: ready after {model.seconds:.1f} s", file=sys.stderr)
            except (SightwordError, OSError, MemoryError) as error:
                model.state, model.detail = "failed", printable(_renamed(str(error), self._paths))
                print(f"{model.name} is not loaded: {printable(str(error))}", file=sys.stderr)
            except Exception as error:
                model.state, model.detail = "failed", "a defect of Sightword; the server's log has the rest"
                traceback.print_exception(error)
        gc.collect()
        gc.freeze()  # what is loaded stays: a search for garbage in all of it would hold up every request for a second

    def _open(self, model: Model) -> tuple[Predictor, Service]:
        """Load a model in its thread. A run sets torch's threads when it is opened, so they are set behind it."""
        import torch

        predictor = load(model.path)
        torch.set_num_threads(self.settings.threads)
        if model.system not in self.services:
            raise SightwordError(f"sightword serve has no requests for models of {model.system}")
        return predictor, self.services[model.system](predictor, self.settings.sources, self.settings.limits)


class Ready(Generic[ServiceT]):
    """A model that is loaded, and its service."""

    def __init__(self, model: Model, service: ServiceT, paths: Mapping[str, str]) -> None:
        self.name, self.service = model.name, service
        self._worker, self._paths = model.worker, paths

    async def submit(self, compute: Compute[ItemT, AnswerT], item: ItemT) -> AnswerT:
        """Return the answer to a request. An error names models and data as clients know them, not by their paths."""
        try:
            return await self._worker.submit(compute, item)
        except SightwordError as error:
            raise SightwordError(_renamed(str(error), self._paths)) from error


NONE = "no model of {0} is loaded. Start the server with one: sightword serve models=…"


def _renamed(text: str, paths: Mapping[str, str]) -> str:
    """Return a message with names in place of paths, which are no client's business."""
    for path, name in paths.items():
        text = text.replace(path, name)
    return text


def _names_of_paths(paths: Sequence[str]) -> dict[str, str]:
    """Return path → its last part, the longest first: of each as it was given, and as it is from the root."""
    every = {
        form: Path(path).name
        for path in paths
        for form in (path, str(Path(path).absolute()), str(Path(path).resolve()))
    }
    return {path: every[path] for path in sorted(every, key=len, reverse=True) if len(path) > 1}


def _unique(folders: Sequence[str]) -> list[str]:
    """Return a short name for each folder: as many of its last parts as tell it from the others."""
    parts = [folder.replace("\\", "/").strip("/").split("/") for folder in folders]
    found: list[str] = []
    for own in parts:
        count = next(
            (n for n in range(1, len(own)) if Counter("/".join(p[-n:]) for p in parts)["/".join(own[-n:])] == 1),
            len(own),
        )
        name = "/".join(own[-max(count, min(2, len(own))) :])
        found.append(name if name not in found else f"{name}#{len(found)}")
    return found
