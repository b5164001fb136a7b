"""The commands that every system shares. Nothing heavy is imported before one runs."""

import textwrap
from collections.abc import Sequence
from pathlib import Path

from sightword.cli.arguments import read_arguments
from sightword.cli.compose import change_config
from sightword.cli.train import measured, train_in
from sightword.engine import run as runs
from sightword.engine.contract import Command
from sightword.engine.system import closest, demo_parts, experiments, presets, system_checks, system_of
from sightword.errors import SightwordError


def evaluate(
    run: str, checkpoint: str = "best", out: str = "", split: str = "val", *, fields: Sequence[str] = ()
) -> None:
    """Measure a run's checkpoint on data it was not trained on, and write the measures with their protocol.

    run: a run's folder. checkpoint: best, last or a file. split: val, or test where the data have one; what validation
    chose, as thresholds, is used there as it is. out: the JSON; if empty, evaluation.json in the run's folder
    (evaluation_test.json of test). Tables are written beside it, as CSV and as text, and pictures where there are any.
    Fields of the config can be given too: data.val_root=photos, system.use_lpips=true system.lpips_weights=vgg16.pth,
    system.fid_weights=pt_inception-2015-12-05-6726825d.pth.
    """
    from sightword.engine.fit import evaluate as measure
    from sightword.storage.table import write_table
    from sightword.storage.writer import write_json

    config = change_config(runs.read_config(Path(run)), fields)
    task, config, used = runs.restore(Path(run), checkpoint, config)
    evaluator, loader = runs.make_evaluator(config, task), runs.held_out(config, split, task)
    metrics = measure(task, evaluator, loader, config)
    file = Path(out or Path(run) / ("evaluation.json" if split == "val" else f"evaluation_{split}.json"))
    file.parent.mkdir(parents=True, exist_ok=True)
    protocol, notes, tables = evaluator.protocol(), evaluator.notes(), evaluator.tables()
    report = {"run": run, "checkpoint": str(used), "metrics": metrics, "tables": tables}
    write_json(file, report | {"protocol": {**protocol, "metrics": notes}})
    written = [path for name, rows in tables.items() for path in write_table(file, name, rows, protocol)]
    written += evaluator.draw(loader, file.with_name(f"{file.stem}_images"))
    print("\n".join([*([protocol["split"]] if "split" in protocol else []), *measured(metrics, notes)]))
    beside = f", {', '.join(str(path) for path in written)} beside it" if written else ""
    print(f"{used}, measured; written to {file} with the protocol{beside}")


def export(run: str, out: str, checkpoint: str = "best") -> None:
    """Write what inference needs of a run, and nothing else: safetensors and a config.

    run: a run's folder. out: the folder to write. checkpoint: best, last or a file.
    """
    kind = system_of(runs.read_config(Path(run)).experiment).predictor()
    if kind is None:
        raise SightwordError(f"{run} is a run of a system that has no predictor, so there is nothing to export")
    runs.load_predictor(kind, run, checkpoint).save_pretrained(Path(out))
    print(f"{run} ({checkpoint}) written to {out}")


def check(dataset: str, root: str = "", path: str = "", *, others: Sequence[str] = ()) -> None:
    """Is this data set whole? Names every missing or broken file.

    dataset: images, or one that a system trains on. root: its folder, or path: its file; the two are one. Some can be
    told more: of intentonomy images= is the folder of the pictures, where they do not lie below root.
    """
    if bool(root) == bool(path):
        wanted = "root and path are the same thing, give one" if root else "sightword check needs root=…, or path=…"
        raise SightwordError(f"{wanted}: where the data set lies; sightword check --help says more")
    checks = system_checks()
    if dataset not in checks:
        raise SightwordError(
            f"there is no data set {dataset!r}{closest(dataset, checks)}; these can be checked: {', '.join(checks)}"
        )
    told = read_arguments(f"check dataset={dataset}", checks[dataset], [f"root={root or path}", *others])
    report = checks[dataset](**told)
    print(report)
    if report.errors:
        raise SystemExit(1)


def cache(
    tower: str,
    images: str,
    out: str,
    tokens: str = "",
    tag: str = "",
    size: str = "",
    dtype: str = "float32",
    disk: str = "float16",
    batch_size: int = 32,
    shard_size: int = 256,
    on_error: str = "raise",
    engine: str = "inline",
    workers: int = 0,
    gpus: float = 0,
) -> None:
    """Keep what a frozen tower sees in a folder of images: its tokens; only images that are new are computed.

    tower: vit_b16, vit_l14, vit_h14, siglip_b16 …, an open_clip model with tag= (or a weights file), a Hugging Face
    name, or a folder of either. images: the folder. out: the cache.
    tokens: which, with commas: post, and of a CLIP joint, value, qq, kk, qq+gauss, kk+gauss; post if empty.
    size: of the images, 224x304 is height x width; the tower's own if empty. dtype: to compute in (float32, bfloat16,
    float16); disk: to keep (float16, float32). on_error: raise, or skip unreadable images.
    engine: inline (also under torchrun), or ray with so many workers, each with a share of so many gpus.
    """
    import torch

    from sightword.data.size import size_of
    from sightword.towers.token_cache import Source, cache_tokens

    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in kinds:
        raise SightwordError(f"dtype is {', '.join(kinds)}; got {dtype!r}")
    source = Source(tower, {"tag": tag, "size": size_of(size) if size else None, "dtype": kinds[dtype]})
    token_types = tokens.split(",") if tokens else ["post"]
    kept = cache_tokens(
        source,
        images,
        out,
        token_types,
        disk,
        batch_size,
        shard_size,
        on_error,
        engine=engine,
        workers=workers,
        gpus=gpus,
    )
    lacking = len(set(kept.index.values()) - kept.keys())
    print(f"{len(kept)} images in {out}" + (f"; {lacking} of {images} without tokens" if lacking else ""))
    if (path := next(iter(kept), None)) is not None:
        print(f"read it: TokenCache({out!r})[{path!r}][{token_types[0]!r}]")


def list_experiments() -> None:
    """List the experiments: what, data, cost, expected score."""
    for name, file in experiments():
        header = [line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        what, *rest = [line for line in header if line and not line.startswith(("@", "sightword "))] or [""]
        print(f"{name:<20} {what}")
        for line in rest:
            print(f"{'':<20}   {line}")
    for system, known in presets().items():
        if known:
            told = textwrap.fill(", ".join(known), 112, initial_indent="  ", subsequent_indent="  ")
            print(f"{system}, preset=\n{told}")


def mini(out: str = "mini") -> None:
    """Write small worlds and tiny towers in the formats of the real ones, to try everything without a network.

    out: the folder. The CLIP among them is trained here, half a minute once, and kept for the next time.
    """
    from sightword.miniature.contents import write_all

    if not out:
        raise SightwordError("out is empty: give a folder (out=. is this one)")
    root = Path(out).expanduser()
    for part in write_all(root):
        print(f"{root / part.folder}: {part.what}")
        print(f"    {part.opened.format(root / part.folder)}")


def demo(out: str = "runs/demo") -> None:
    """Run everything in miniature, offline, and write one page with the pictures."""
    from sightword.viz.page import make_page

    make_page(Path(out), demo_parts(), train_in)


COMMANDS: dict[str, Command] = {
    "evaluate": evaluate,
    "list": list_experiments,
    "check": check,
    "cache": cache,
    "export": export,
    "mini": mini,
    "demo": demo,
}
