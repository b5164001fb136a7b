"""A trained model for users: `load` opens a run directory, an exported folder or a model on the hub.

    model = sightword.load("runs/intent/stage1/first")      finds the system, and returns its predictor
    model("photo.jpg").plot()                               one input, one result; a list gives a list
    model.save_pretrained("model")                          an exported folder, with a model card
    model.push_to_hub("owner/name")                         the same, on the Hugging Face hub

An exported folder contains config.json (the system, the version and the content that the system adds), the weights as
safetensors, and README.md, the model card.
"""

import re
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self, Unpack

from huggingface_hub import ModelCard, ModelHubMixin

from sightword.engine.config import DataConfig
from sightword.engine.contract import BatchT
from sightword.engine.run import read_config, restore
from sightword.engine.system import closest, system_of, systems
from sightword.errors import SightwordError
from sightword.storage.atomic import write_atomically
from sightword.storage.domain import DRAWN, domain_of_weights, foreign, warning
from sightword.storage.fields import Fields
from sightword.storage.hub import HubOptions, fetched
from sightword.storage.reader import read_json, read_text
from sightword.storage.writer import write_json
from sightword.version import VERSION

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from sightword.engine.task import Task

CONFIG, CARD = "config.json", "README.md"
#: Patterns of the files of an exported folder, in it or in folders below it.
EXPORTED = ("*.json", "*.safetensors", "*.txt", "*.model", "*.pth", CARD)
#: Fields of config.json that every system's has.
HEADER = ("sightword", "system", "card", "domain")


@dataclass(frozen=True)
class Training:
    """How a model was trained and measured, for its model card. Empty for a model that no run made."""

    experiment: str = ""
    checkpoint: str = ""  # best, last, or the file's name
    metrics: dict[str, float] = field(default_factory=dict)  # val/… of the checkpoint, test/… if it was measured
    protocol: dict[str, str] = field(default_factory=dict)  # topic → text: how the metrics were computed


class Predictor(ModelHubMixin, ABC, library_name="sightword"):
    """A trained model for users: a call takes one input or many and returns a `Result`, or a list of them.

    A system's subclass names itself, says how it is used, and implements the abstract methods.
    """

    system: ClassVar[str]  # the name of its system
    summary: ClassVar[str]  # what it does, for the model card
    usage: ClassVar[str]  # a line of Python with `model`, for the model card

    training: Training = Training()
    domain: str = ""  # of what it was trained on, see `storage.domain`
    _has_warned: bool = False

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes that it tells apart, in the order of its outputs; none if there are none."""
        return ()

    def __new__(cls, *args: object, **kwargs: object) -> Self:
        """Return a new object. The mixin would copy the arguments, networks included, as a config."""
        return object.__new__(cls)

    @classmethod
    @abstractmethod
    def from_task(cls, task: "Task[BatchT]", data: DataConfig | None = None) -> Self:
        """Return the predictor of a trained task. data: the run's, if inputs need the same preparation.

        Raises SightwordError if the task is of another system.
        """

    @classmethod
    @abstractmethod
    def _from_folder(cls, folder: Path, content: Fields) -> Self:
        """Return the predictor in an exported folder. content: of its config.json."""

    @abstractmethod
    def _write(self, folder: Path) -> Mapping[str, object]:
        """Write the weights and all that prediction needs to a folder. Return the content of config.json."""

    @abstractmethod
    def task_weights(self) -> dict[str, "Tensor"]:
        """Return the weights by the names that the system's task has for them, to train further from."""

    @abstractmethod
    def to(self, device: "str | torch.device") -> Self:
        """Move the model to a device. Return the same predictor."""

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, path: str | Path, checkpoint: str = "best", **hub: Unpack[HubOptions]
    ) -> Self:
        """Return the predictor of a run directory, an exported folder, or a hub id (owner/name).

        Raises SightwordError if the path is none of these, or belongs to another system.
        """
        place = place_of(path, **hub)
        if place.system != cls.system:
            raise SightwordError(
                f"{path} is a model of {place.system}. Pass one of {cls.system}, or use sightword.load"
            )
        return cls._open(place, checkpoint)

    @classmethod
    def _open(cls, place: "Place", checkpoint: str) -> Self:
        if place.content is not None:
            found = cls._from_folder(place.folder, place.content)
            known = place.content.mapping("card", optional=True)
            found.training = known.into(Training) if len(known) else Training()
            found.domain = place.content.text("domain", "") or found.domain
            return found
        restored = restore(place.folder, checkpoint)
        found = cls.from_task(restored.task, restored.config.data)
        found.training = _training(place.folder, restored.config.experiment, restored.checkpoint.stem)
        found.domain = domain_of_weights(place.folder) or found.domain
        return found

    def mind_domain(self, sources: Iterable[object], name: str = "") -> None:
        """Say once, on stderr, that weights of a drawn domain are used on data that are not known to be drawn.

        sources: files and folders, or data without a path. name: of the model, for the message.
        """
        if self.domain != DRAWN or self._has_warned:
            return
        if foreign(source if isinstance(source, str | Path) else None for source in sources):
            self._has_warned = True
            print(warning(name or "this model"), file=sys.stderr)

    def save_pretrained(self, save_directory: str | Path, **options: object) -> None:
        """Write an exported folder: all that prediction needs, and a model card. options: those of `push_to_hub`.

        config.json is written last: a folder without it, from a run that was killed, is no model. Raises SightwordError
        for a folder whose config.json or README.md is somebody else's.
        """
        folder = Path(save_directory).expanduser()
        _refuse_others(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).unlink(missing_ok=True)
        content = self._write(folder)
        with write_atomically(folder / CARD) as part:
            part.write_text(str(self.generate_model_card()), encoding="utf-8")
        header = {"sightword": VERSION, "system": self.system, "card": asdict(self.training), "domain": self.domain}
        write_json(folder / CONFIG, {**header, **content})

    def generate_model_card(self, *args: object, **kwargs: object) -> ModelCard:
        """Return the model card: what the model does, how it is used, its metrics and how they were computed."""
        data = self._hub_mixin_info.model_card_data
        data.tags = [self.system, "sightword", *([self.domain] if self.domain else [])]
        data["domain"] = self.domain or None
        metrics = [(name, f"{value:.4g}") for name, value in sorted(self.training.metrics.items())]
        card: ModelCard = ModelCard.from_template(
            data,
            template_str=_CARD,
            name=type(self).__name__,
            summary=self.summary,
            usage=self.usage,
            training=self.training,
            domain=self.domain,
            metrics=metrics,
            version=VERSION,
        )
        return card


def load(path: str | Path, checkpoint: str = "best", **hub: Unpack[HubOptions]) -> Predictor:
    """Return the predictor of a run directory, of a folder of `sightword export`, or of a model on the hub.

    path: a folder, or a hub id (owner/name), which is downloaded once. checkpoint: of a run: best, last, or a file.
    hub: revision, token, cache_dir, local_files_only and force_download as `huggingface_hub` takes them.
    Raises SightwordError if the path is neither a run, nor an export, nor a hub id.
    """
    return open_place(place_of(path, **hub), checkpoint)


# -------------------------------------------------------------------------------------------------------------- parts


class Place(NamedTuple):
    """A folder with a model."""

    folder: Path
    system: str
    content: Fields | None  # of config.json in an exported folder; None for a run directory


def place_of(path: str | Path, **hub: Unpack[HubOptions]) -> Place:
    """Return the folder of a model and the name of its system. A hub id is downloaded first.

    Raises SightwordError if the path is neither a run directory, nor an exported folder, nor a hub id.
    """
    folder = Path(path).expanduser()
    if not folder.exists() and re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", str(path)):
        folder = fetched(path, EXPORTED, **hub)
    if (folder / "config.yaml").is_file():
        return Place(folder, read_config(folder).experiment.split("/")[0], None)
    if folder.is_dir() and not (folder / CONFIG).is_file():
        raise SightwordError(
            f"{str(path)!r} is neither a run directory (config.yaml is missing) nor an exported model (config.json is "
            "missing). Pass the folder that sightword train or sightword export printed"
        )
    content = read_json(
        folder / CONFIG,
        missing="Pass a run directory, a folder that sightword export wrote, or a hub id (owner/name)",
        damaged="It is damaged, or of another version: export the run again",
    )
    name = content.text("system", "") or _system_of(content)
    if name not in systems():
        raise SightwordError(f"{folder / CONFIG}: system is {name!r}{closest(name, systems())}, which is not installed")
    return Place(folder, name, content)


def open_place(place: Place, checkpoint: str = "best") -> Predictor:
    """Return the predictor of a folder with a model. Raises SightwordError if its system has none."""
    kind = system_of(place.system).predictor()
    if kind is None:
        raise SightwordError(f"{place.folder} is a model of {place.system}, a system without a predictor")
    return kind._open(place, checkpoint)


def _system_of(content: Fields) -> str:
    """Return the system of a config.json that names none."""
    return next((name for name, system in systems().items() if system.reads(content)), "")


def _refuse_others(folder: Path) -> None:
    """Raise SightwordError if a folder has a config.json or a README.md of somebody else, or is a run directory."""
    if (folder / "config.yaml").is_file():
        raise SightwordError(f"out={folder} is a run directory. Pass another folder to export to")
    if (folder / CONFIG).is_file() and not {"sightword", "quantizer"} & set(read_json(folder / CONFIG)):
        raise SightwordError(f"{folder / CONFIG} was written by another program. Pass another folder to export to")
    if (folder / CARD).is_file() and "library_name: sightword" not in read_text(folder / CARD):
        raise SightwordError(f"{folder / CARD} is not a model card of Sightword. Pass another folder to export to")


def _training(folder: Path, experiment: str, checkpoint: str) -> Training:
    """Return what a run's directory says of its checkpoint: the metrics of its validation, and of a test if any."""
    metrics: dict[str, float] = {}
    protocol: dict[str, str] = {}
    if (folder / "summary.json").is_file():
        summary = read_json(folder / "summary.json")
        kept = summary.mapping("best" if checkpoint == "best" and len(summary.mapping("best")) else "last")
        metrics = {name: kept.number(name) for name in kept if name.startswith("val/") and kept.value(name) is not None}
        protocol = _texts(summary.mapping("protocol"))
    test = folder / "evaluation_test.json"
    if test.is_file() and Path((measured := read_json(test)).text("checkpoint")).stem == checkpoint:
        found = measured.mapping("metrics")
        metrics |= {f"test/{name}": found.number(name) for name in found if found.value(name) is not None}
        protocol |= {f"test: {topic}": text for topic, text in _texts(measured.mapping("protocol")).items()}
    return Training(experiment, checkpoint, metrics, protocol)


def _texts(protocol: Fields) -> dict[str, str]:
    """Return the topics of a protocol that are texts, without the remarks on single metrics."""
    return {topic: text for topic in protocol if isinstance(text := protocol.value(topic), str)}


_CARD = """---
{{ card_data }}
---

# {{ name }}

{{ summary }}
{% if domain %}
The training saw drawn images only (`sightword mini`): its answers on photographs mean nothing.
{% endif %}
```python
import sightword

model = sightword.load("owner/name")  # the id of this repository, or the path of this folder
{{ usage }}
```
{% if training.experiment %}
## Training

Experiment `{{ training.experiment }}` of Sightword {{ version }}, checkpoint `{{ training.checkpoint }}`. The
configuration is in `config.json`.
{% endif %}{% if metrics %}
## Metrics

| metric | value |
|---|---|
{% for metric, value in metrics %}| {{ metric }} | {{ value }} |
{% endfor %}{% endif %}{% if training.protocol %}
How they were computed:

{% for topic, text in training.protocol.items() %}- **{{ topic }}**: {{ text }}
{% endfor %}{% endif %}"""
