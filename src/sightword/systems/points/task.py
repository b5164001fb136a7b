"""The objective of points that speak, and its measures.

    distil_weight·distil_loss            fused features say what lifted CLIP says, where anything was seen
    + consistency_weight·clip_cons_loss  views of a point agree, on the trainable maps
    + label_weight·label_loss            and, supervised, the label's word

Legend: N points and V views of a batch; E width of CLIP's joint space; C classes.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL.Image import Image
from safetensors.torch import save_file
from torch import Tensor, distributed
from torch.nn import Parameter

from sightword.data.loader import moved
from sightword.engine.contract import SPLITS, Task
from sightword.metrics.gather import Mean
from sightword.storage.atomic import write_atomically
from sightword.storage.checkpoint import load_strictly, read_weights
from sightword.systems.points.clip import FrozenClip
from sightword.systems.points.config import PointsConfig
from sightword.systems.points.data import RoomBatch
from sightword.systems.points.legend import coloured, keyed, palette_of
from sightword.systems.points.loss import ClipConsCriterion, agreement, distillation
from sightword.systems.points.model import BiFusionEncoder, Fused
from sightword.systems.points.scannet.label import LabelSet, label_set

CONFIG, WEIGHTS = "config.json", "model.safetensors"
ASKED = {"clip": "CLIP as it was lifted", "text": "the fused features"}  # what questions are put to


def make_task(system: PointsConfig) -> "PointsTask":
    """The task that a config describes."""
    clip = FrozenClip(system.clip, system.clip_tag, system.token_type, system.clip_size, system.clip_dtype)
    return PointsTask(system, make_encoder(system, clip.width), clip, label_set(system.labels))


def make_encoder(system: PointsConfig, clip_dim: int) -> BiFusionEncoder:
    """The encoder of a config, with new weights."""
    return BiFusionEncoder(
        clip_dim,
        system.dim,
        system.radius,
        system.k,
        system.layers,
        system.neck,
        system.upsample,
        system.heads,
        system.bands,
        system.clip_global,
        system.use_amp,
        (system.abs_tol, system.rel_tol),
        system.chain,
    )


def read_exported(folder: str | Path) -> "PointsTask":
    """What `export` wrote, in eval mode. The CLIP is opened by its name, as in the run."""
    folder = Path(folder).expanduser()
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        system, labels = PointsConfig(**content["system"]), content["labels"]
        known = LabelSet(tuple(labels["names"]), tuple(labels["ids"]), str(folder / CONFIG))
        width = int(content["clip_dim"])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(f"{folder} has no {CONFIG}; sightword export run=… out={folder} writes it") from error
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{folder / CONFIG} is damaged, or of another version: {error}") from error
    clip = FrozenClip(system.clip, system.clip_tag, system.token_type, system.clip_size, system.clip_dtype)
    task = PointsTask(system, make_encoder(system, width), clip, known)
    load_strictly(task.model, read_weights(folder / WEIGHTS), folder / WEIGHTS)
    return task.eval()


class PointsTask(Task):
    """An encoder of points, taught by the CLIP that it is fed with. CLIP is frozen, and no part of this module."""

    def __init__(self, system: PointsConfig, model: BiFusionEncoder, clip: FrozenClip, labels: LabelSet) -> None:
        super().__init__(
            {
                "distil_loss": system.distil_weight,
                "clip_cons_loss": system.consistency_weight,
                "label_loss": system.label_weight,
            }
        )
        self.system, self.model, self.clip, self.labels = system, model, clip, labels
        self.consistency = ClipConsCriterion()
        self.split, self.scenes = "val", 0  # that were measured last
        self._stats: dict[str, Tensor] = {}
        self._classes: list[dict[str, Any]] = []
        self._forget()

    def reads(self) -> dict[str, Any]:
        return {"clip": self.clip, "labels": self.labels}

    # ------------------------------------------------------------------------------------------------------ training

    def see(self, batch: RoomBatch) -> tuple[Fused, Tensor]:
        """The encoder's word on a batch, and CLIP's maps of its views (V, E, h, w)."""
        maps, pooled = batch.maps, batch.pooled
        if maps is None:
            if batch.images is None:
                raise ValueError("a batch has CLIP's maps of its views, or images for CLIP to see: this has neither")
            maps, pooled = self.clip.see(batch.images)
        return self.model(batch.xyz, batch.rgb, batch.scene, batch.views, maps, pooled, hidden=batch.hidden), maps

    def losses(self, batch: RoomBatch) -> dict[str, Tensor]:
        out, _ = self.see(batch)
        terms = {}
        if self.system.distil_weight:
            terms["distil_loss"] = distillation(out.text, out.clip, out.seen)
        if self.system.consistency_weight:
            terms["clip_cons_loss"] = self.consistency(out.maps, out.links, len(batch.xyz))
        if self.system.label_weight:
            terms["label_loss"] = self._label_loss(out.text, batch.label)
        views = out.links.counts.float()
        self._stats = {"coverage": out.seen.float().mean(), "views_a_point": views.mean()}
        return terms

    def _label_loss(self, text: Tensor, label: Tensor) -> Tensor:
        known = label >= 0
        logits = self.system.scale * text[known] @ self.words(text.device).T
        return F.cross_entropy(logits, label[known], reduction="sum") / known.sum().clamp_min(1)

    def words(self, device: torch.device) -> Tensor:
        """(C, E) unit vectors of the classes, in the order of `labels`."""
        return self.clip.words(self.labels.names, self.system.templates).to(device)

    def stats(self) -> dict[str, float]:
        """coverage: share of the batch's points that any view sees; views_a_point: how many see one, the mean."""
        return {name: float(value) for name, value in self._stats.items()}

    def roles(self) -> dict[str, list[Parameter]]:
        """image: the 2-D branch; points: the 3-D branch; head: the gate, and what reads words off a point."""
        model = self.model
        parts = {
            "image": (model.reduce, model.neck, model.norm2),
            "points": (model.embed, model.layers, model.norm3),
            "head": (model.gate, model.head),
        }
        return {
            role: [p for module in modules if module is not None for p in module.parameters() if p.requires_grad]
            for role, modules in parts.items()
        }

    # ------------------------------------------------------------------------------------------------------ measures

    @torch.no_grad()
    def evaluate(self, batch: RoomBatch) -> None:
        """Ask every labelled point which class it is; count how much was seen, and how far views agree."""
        if self.split != batch.split:
            self._forget()
            self.split = batch.split
        out, maps = self.see(batch)
        self._names.update(batch.names)
        self._means["coverage"].update(out.seen.float())
        for name, of in (("consistency", maps.float()), ("consistency_reduced", out.maps)):
            alike, twice = agreement(F.normalize(of, dim=1), out.links, len(batch.xyz))
            self._means[name].update(alike[twice])
        self._means["text_to_clip"].update((out.text * out.clip).sum(1)[out.seen])
        known, classes = batch.label >= 0, len(self.labels.names)
        if known.any():
            label, seen = batch.label[known], out.seen[known]
            for name in ASKED:
                answer = self._answers(out, name)[known]
                answer = torch.where(answer < 0, classes, answer)
                counts = _asked(answer, label, seen, classes)
                self._counts[name] = self._counts[name].to(counts.device) + counts

    def _answers(self, out: Fused, name: str) -> Tensor:
        """Which class each point is nearest to, (N,); -1 where nothing was seen that could tell: by geometry the fused
        features tell all the same, unless they have no 3-D branch."""
        answer = (getattr(out, name) @ self.words(out.text.device).T).argmax(1)
        return answer if name == "text" and self.model.gate is not None else torch.where(out.seen, answer, -1)

    def measures(self) -> dict[str, float]:
        """Of the points with labels, percent, by the words of their classes (open vocabulary), of `clip` and `text`:

        …_accuracy and …_miou over all of them (what CLIP has not seen, it has not told), …_accuracy_seen over those any
        view sees; text_accuracy_unseen: over the others, by geometry alone; majority: always the commonest class.

        coverage: percent of all points that any view sees. consistency: mean cosine of a point's views in CLIP's maps,
        consistency_reduced: in the trained ones; text_to_clip: cosine of both on points that are seen. Without labels,
        only these.
        """
        counts = {name: _over_ranks(part) for name, part in self._counts.items()}
        means = {name: mean.reduce() for name, mean in self._means.items()}
        self.scenes = len(_names_of_ranks(self._names))
        self._forget()
        found = {name: float(mean.value()) for name, mean in means.items() if mean.sum[1]}
        if "coverage" in found:
            found["coverage"] *= 100
        if not counts["text"].sum():
            return found
        every = {name: part.sum(0) for name, part in counts.items()}  # (C, C + 1), of seen and unseen
        for name, part in counts.items():
            found[f"{name}_accuracy"] = 100 * _right(every[name])
            found[f"{name}_miou"] = 100 * float(_iou(every[name]).nanmean())
            found[f"{name}_accuracy_seen"] = 100 * _right(part[1])
        found["text_accuracy_unseen"] = 100 * _right(counts["text"][0])
        found["majority"] = 100 * float(every["text"].sum(1).max() / every["text"].sum())
        self._classes = self._class_table(every)
        return found

    def _class_table(self, counts: dict[str, Tensor]) -> list[dict[str, Any]]:
        """A row a class: its points, how well each tells it, and what the fused features take it for."""
        ious = {name: 100 * _iou(part) for name, part in counts.items()}
        rows = []
        for number, word in enumerate(self.labels.names):
            row: dict[str, Any] = {"class": word, "points": int(counts["text"][number].sum())}
            if not row["points"]:
                continue
            row |= {f"{name}_iou": round(float(part[number]), 2) for name, part in ious.items()}
            wrong = counts["text"][number, : len(self.labels.names)].clone()
            wrong[number] = 0
            row["taken_for"] = self.labels.names[int(wrong.argmax())] if wrong.any() else ""
            rows.append(row)
        return rows

    def tables(self) -> dict[str, list[dict[str, Any]]]:
        return {"classes": self._classes} if self._classes else {}

    def protocol(self) -> dict[str, Any]:
        system = self.system
        questions = ", ".join(repr(template) for template in system.templates)
        return {
            "split": SPLITS.get(self.split, self.split),
            "scenes": f"{self.scenes}, one sample of points and one of views each, always the same",
            "classes": f"{len(self.labels.names)} of {self.labels.source}; other points are not asked",
            "questions": f"the class in {questions}; the nearest of all classes is the answer",
            "clip": f"{self.clip.name} {self.clip.tag}, {system.token_type} tokens at {'×'.join(map(str, system.clip_size))}",
            "visible": f"within {system.abs_tol:g} m + {system.rel_tol:g} of the measured depth",
            "measures": {
                f"{name}_{part}": f"%, {what}, asked in words{of}"
                for name, what in ASKED.items()
                for part, of in (("accuracy", ""), ("miou", ", mean over classes"), ("accuracy_seen", ", where seen"))
            }
            | {
                "text_accuracy_unseen": "%, where no view sees them: by geometry and colour alone",
                "majority": "%, always the commonest class",
                "coverage": "% of points that any view sees",
                "consistency": "mean cosine of a point's views, in CLIP's maps",
                "consistency_reduced": "the same in the trained maps",
                "text_to_clip": "mean cosine of the fused features and lifted CLIP",
            },
        }

    @torch.no_grad()
    def pictures(self, batch: RoomBatch) -> dict[str, Image]:
        """The first scene of a batch: in its colours, by its labels, and by what CLIP and the fused features answer."""
        from sightword.systems.points import show

        out, _ = self.see(batch)
        own = batch.scene == 0
        palette = palette_of(len(self.labels.names))
        panels = {batch.names[0]: (127.5 * (batch.rgb[own].float() + 1)).round().byte().cpu().numpy()}
        answers = {name: self._answers(out, name)[own] for name in ASKED}
        titles = {"clip": "lifted CLIP's answer", "text": "the fused features' answer"}
        if (batch.label[own] >= 0).any():
            answers, titles = {"label": batch.label[own], **answers}, {"label": "labels", **titles}
        for name, title in titles.items():
            panels[title] = coloured(answers[name], palette)
        poses, links = batch.views.pose[batch.views.scene == 0], out.links
        inside = own[links.point]  # the first scene's points and views stand first
        towards = show.facing(batch.xyz[own], poses, links.point[inside], links.view[inside])
        image = show.clouds(batch.xyz[own], panels, show.upwards(poses), towards, (400, 300))
        told = torch.cat([part[part >= 0] for part in answers.values()]).unique().tolist()
        return {"answers": keyed(image, [self.labels.names[number] for number in told], palette[told])}

    def draw(self, loader: Any, folder: Path) -> list[Path]:
        """What is answered in the loader's first scene."""
        device = next(self.parameters()).device
        file, batch = folder / "answers.png", moved(next(iter(loader)), device)
        folder.mkdir(parents=True, exist_ok=True)
        with write_atomically(file) as part:
            self.pictures(batch)["answers"].save(part, "PNG")
        return [file]

    def _forget(self) -> None:
        classes = len(self.labels.names)
        self._counts = {name: torch.zeros(2, classes, classes + 1, dtype=torch.int64) for name in ASKED}
        names = ("coverage", "consistency", "consistency_reduced", "text_to_clip")
        self._means = {name: Mean() for name in names}
        self._names: set[str] = set()

    # ------------------------------------------------------------------------------------------------------ the result

    def export(self, folder: Path) -> None:
        """The encoder, what it was made of, and the classes; `read_exported` reads it."""
        folder.mkdir(parents=True, exist_ok=True)
        labels = {"names": self.labels.names, "ids": self.labels.ids}
        content = {"system": asdict(self.system), "labels": labels, "clip_dim": self.model.clip_dim}
        with write_atomically(folder / WEIGHTS) as part:
            save_file({name: w.detach().cpu().contiguous() for name, w in self.model.state_dict().items()}, part)
        with write_atomically(folder / CONFIG) as part:
            part.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _asked(answer: Tensor, label: Tensor, seen: Tensor, classes: int) -> Tensor:
    """(2, C, C + 1) int64: unseen and seen points by their class and by the answer; the last answer is none."""
    cell = (seen.long() * classes + label) * (classes + 1) + answer
    return torch.bincount(cell, minlength=2 * classes * (classes + 1)).view(2, classes, classes + 1)


def _right(counts: Tensor) -> float:
    """The share on the diagonal of (C, C + 1); NaN without a point."""
    return float(counts.diagonal().sum() / counts.sum())


def _iou(counts: Tensor) -> Tensor:
    """Of each class tp / (tp + fp + fn), (C,) float64; NaN for one that has no point, whoever is taken for it."""
    hits, own = counts.diagonal().double(), counts.sum(1).double()
    taken = counts[:, :-1].sum(0).double()
    return torch.where(own > 0, hits / (own + taken - hits), torch.nan)


def _over_ranks(values: Tensor) -> Tensor:
    """The sum over ranks, on the CPU (a collective)."""
    return torch.stack(_of_ranks(values.cpu())).sum(0)


def _names_of_ranks(names: set[str]) -> set[str]:
    return set().union(*_of_ranks(names))


def _of_ranks(value: Any) -> list[Any]:
    if not (distributed.is_available() and distributed.is_initialized()):
        return [value]
    ranks: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(ranks, value)
    return ranks
