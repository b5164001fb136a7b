"""Steps before training: anchors, patch tokens and ids of codes, where a config names them and they do not exist yet.

system.semantic_anchors_path   made from system.tower and system.vocabulary, as by `sightword anchors`
data.cache                     made from system.tower and the images, as by `sightword cache`
system.calibration             made from anchors, cached tokens of the training images, and
                               system.calibration_labels, as by `sightword calibrate`; for calibrated words
data.ids                       made from both, as by `sightword ids`; without data.cache the tokens are kept in
                               <data.ids>_tokens
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from sightword.data.finding import grouped
from sightword.engine.argument import NAMES, read_value
from sightword.engine.contract import Step
from sightword.errors import MissingFileError, SightwordError
from sightword.storage import shards
from sightword.systems.intent.anchors import Anchors, Recipe, find, write_anchors
from sightword.systems.intent.calibration import NAME as CALIBRATION
from sightword.systems.intent.calibration import POOLED, Calibration, calibration_file, word_anchors
from sightword.systems.intent.calibrator import Request, write_calibration
from sightword.systems.intent.config import TOKEN_TYPES, IntentConfig, IntentData
from sightword.systems.intent.data import find_keys, finder, images_of, labels_of, root_of, without_row
from sightword.systems.intent.doctor import find_doubtful
from sightword.systems.intent.ids import write_ids
from sightword.systems.intent.intentonomy import SPLITS, find_leaks
from sightword.systems.intent.labels import has_split, is_own, read_labels, read_split
from sightword.systems.intent.pair import best_pairs
from sightword.systems.intent.presence import PresenceModel, stream_words
from sightword.systems.intent.task import read_calibration, streams_of
from sightword.systems.intent.vocabulary import chosen_vocabularies
from sightword.towers.token_cache import Source, TokenCache, cache_tokens


def steps(config: IntentConfig, data: IntentData) -> list[Step]:
    """Return the steps that a config needs, in their order, done or not.

    Raises SightwordError if the annotations cannot be read, before anything is computed.
    """
    files = _annotated(data)
    anchors = [_anchors_step(config)] if config.model == "multistream" else []
    if config.calibrated:
        return [*anchors, *_calibrated(config, data, files)]
    if data.ids and config.reads_ids:
        tokens = replace(data, ids="", cache=data.cache or f"{data.ids}_tokens")
        ids = _ids_step(config, data, Path(tokens.cache).expanduser(), files)
        return [*anchors, _tokens_step(config, tokens, lambda: ids.is_done() or _is_complete(tokens, files)), ids]
    if data.cache:
        tokens = replace(data, ids="")
        return [*anchors, _tokens_step(config, tokens, lambda: _is_complete(tokens, files))]
    return anchors


def completed(config: IntentConfig, data: IntentData) -> IntentConfig:
    """Return the config with what its data decide: the names of classes, the calibration, and pairs of words.

    Classes are its own, or those of the training annotations.
    """
    if not config.classes:
        config = replace(config, classes=read_split(root_of(data), "train", data.images).names)
    if config.calibrated:
        file = calibration_file(config.semantic_anchors_path, config.calibration)
        config = replace(config, calibration=str(file.resolve()))
    if config.pairs and not config.pair_words:
        config = replace(config, pair_words=_best_pairs(config, data))
    return config


def _annotated(data: IntentData) -> list[str]:
    """The files of all splits; the test split may be missing. Tell which images are in two splits."""
    root, images = root_of(data), data.images
    found = [split for split in SPLITS if split != "test" or has_split(root, split, images)]
    read = {split: read_split(root, split, images) for split in found}
    if is_own(root):
        labels = read_labels(root, images)
        shards.say(labels.assumed)
        for line in grouped(find_doubtful(labels), ("warning", "error")):
            shards.say(f"warning: {line}")
    for line in grouped(find_leaks(read)):
        shards.say(f"error: {line}. sightword check dataset=intentonomy root={data.root} names all of them")
    return [file for notes in read.values() for file in notes.files]


def _is_complete(data: IntentData, files: Sequence[str]) -> bool:
    """Whether a cache of tokens or ids exists, with a row of every annotated image that can be read."""
    out = Path(data.ids or data.cache).expanduser()
    if not any([*out.glob("header.json"), *out.glob("*/header.json")]):
        return False
    key_of = finder(data)
    return not without_row(data, [file for file in files if key_of(file) is None])


# ------------------------------------------------------------------------------------------------------------ anchors


def _anchors_step(config: IntentConfig) -> Step:
    out = Path(config.semantic_anchors_path).expanduser()

    def is_done() -> bool:
        try:
            found = find(out)
        except MissingFileError:
            return False
        if config.vocabulary:
            with suppress(MissingFileError):  # anchors need no vocabulary any more
                Anchors.read(found).check_vocabularies(_vocabularies(config)[1])
        return True

    def execute() -> None:
        streams, files = _vocabularies(config)
        for note in write_anchors(Recipe(config.tower, config.tag, streams, files), out).notes:
            shards.say(f"note: {note}")

    given = f" vocabulary={config.vocabulary}" if config.vocabulary else ""
    command = f"sightword anchors tower={config.tower}{_tag(config)}{given} out={out}"
    return Step("codebooks of text embeddings", out, is_done, execute, command)


def _vocabularies(config: IntentConfig) -> tuple[list[str], list[Path]]:
    """Streams and files, as `vocabularies` takes them."""
    return chosen_vocabularies(read_value("system.vocabulary", config.vocabulary, NAMES))


# ------------------------------------------------------------------------------------------------------ tokens and ids


def _tokens_step(config: IntentConfig, data: IntentData, is_done: Callable[[], bool]) -> Step:
    """The types of all streams are kept, also for the baseline, so that one cache serves every experiment."""
    folder, out = images_of(data), Path(data.cache).expanduser()

    def execute() -> None:
        found = {*config.token_types.values(), "joint"}
        if config.model == "multistream":
            found = set(streams_of(config, Anchors.read(config.semantic_anchors_path)).values())
        source = Source(config.tower, {"tag": config.tag})
        cache_tokens(source, folder, out, sorted(found), on_error="skip")

    told = ",".join(sorted({*config.token_types.values(), "joint"}))
    command = f"sightword cache tower={config.tower}{_tag(config)} images={folder}"
    command += f" token_type={told} on_error=skip out={out}"
    return Step(f"patch tokens of the images in {folder}", out, is_done, execute, command)


# --------------------------------------------------------------------------------------------------------- calibration


def _calibrated(config: IntentConfig, data: IntentData, files: Sequence[str]) -> list[Step]:
    """The steps of tokens and calibration. Without data.cache the calibration has to be there."""
    tokens = replace(data, ids="")
    calibration = _calibration_step(config, tokens)
    if data.cache:
        return [_tokens_step(config, tokens, lambda: _is_complete(tokens, files)), calibration]
    return [calibration]


def _calibration_step(config: IntentConfig, data: IntentData) -> Step:
    def out() -> Path:
        try:
            return calibration_file(config.semantic_anchors_path, config.calibration)
        except MissingFileError:  # of anchors that are not written yet, into a folder or as a file
            place = Path(config.semantic_anchors_path).expanduser()
            return (place.parent if place.suffix else place) / CALIBRATION

    def is_done() -> bool:
        if not out().is_file():
            return False
        found = Calibration.read(out())
        if config.calibration_labels and not found.labelled:
            raise SightwordError(
                f"{out()} was written without labels, and system.calibration_labels={config.calibration_labels}. Write "
                f"it again: {command}"
            )
        return True

    def execute() -> None:
        if not data.cache:
            raise SightwordError(f"{out()} does not exist, and is made of cached tokens. Set data.cache")
        request = Request(
            Path(config.semantic_anchors_path).expanduser(),
            Path(data.cache).expanduser(),
            Path(config.calibration_labels).expanduser() if config.calibration_labels else None,
            tower=config.tower,
            tag=config.tag,
        )
        for note in write_calibration(request, out(), train_keys(data)).notes:
            shards.say(f"note: {note}")

    labels = f" labels={config.calibration_labels}" if config.calibration_labels else ""
    command = f"sightword calibrate anchors={config.semantic_anchors_path} tokens={data.cache} root={data.root}"
    command += f"{labels} tower={config.tower}{_tag(config)} out={out()}"
    return Step("calibration of words", out(), is_done, execute, command)


def train_keys(data: IntentData) -> list[str]:
    """Return the content keys of the training images that are cached."""
    return sorted(set(find_keys(data, "train")[1].values()))


def _best_pairs(config: IntentConfig, data: IntentData) -> list[str]:
    """Return the best pairs of words on the training images. Raises SightwordError without cached tokens."""
    if not data.cache:
        raise SightwordError(
            f"system.pairs={config.pairs} are chosen on cached tokens of the training images. Set data.cache, or name "
            "the pairs in system.pair_words"
        )
    anchors = Anchors.read(config.semantic_anchors_path)
    streams = streams_of(config, anchors)
    calibration, words = read_calibration(config, anchors), word_anchors(anchors)
    model = PresenceModel(
        stream_words({name: words[name].codes for name in streams}, calibration, streams),
        1,
        hard=config.read == "presence01",
        sharpness=config.sharpness,
    )
    notes, keys = find_keys(replace(data, ids=""), "train")
    rows = TokenCache(data.cache).rows
    calibration.check_tower(str(rows.header["weights"]), f"data.cache={data.cache}")
    pooled = torch.from_numpy(np.stack([rows.get(key, POOLED) for key in keys.values()])).float()
    strength = model.strength(model.presence(pooled))
    targets = labels_of(notes.for_classes(config.classes, data.root), data.labels)[list(keys)]
    found = best_pairs(strength, targets, {name: words[name].names for name in streams}, config.pairs)
    shards.say(f"{len(found)} pairs of words, chosen on {len(keys)} training images: {', '.join(found[:4])}, …")
    return found


# --------------------------------------------------------------------------------------------------------------- ids


def _ids_step(config: IntentConfig, data: IntentData, tokens: Path, files: Sequence[str]) -> Step:
    out = Path(data.ids).expanduser()

    def execute() -> None:
        anchors = Anchors.read(config.semantic_anchors_path)
        token_types = streams_of(config, anchors)
        write_ids(tokens, {name: anchors[name].codes for name in token_types}, token_types, out)

    streams = f" streams={','.join(config.streams)}" if config.streams else ""
    changed = [f"{name}:{kind}" for name, kind in config.token_types.items() if TOKEN_TYPES.get(name, "joint") != kind]
    types = f" token_type={','.join(changed)}" if changed else ""
    command = f"sightword ids anchors={config.semantic_anchors_path} tokens={tokens}{streams}{types} out={out}"
    return Step("ids of the nearest codes", out, lambda: _is_complete(data, files), execute, command)


def _tag(config: IntentConfig) -> str:
    return f" tag={config.tag}" if config.tag else ""
