"""The commands that every system shares. Nothing heavy is imported before one is executed."""

import textwrap
from importlib import import_module
from pathlib import Path
from typing import cast

from sightword.cli.arguments import read_arguments
from sightword.cli.completion import completion
from sightword.cli.compose import change_config
from sightword.cli.table.command import table
from sightword.cli.train import metric_lines, train_in
from sightword.data.dtype import torch_dtype
from sightword.data.size import height_width
from sightword.engine import run as runs
from sightword.engine.argument import (
    Dtype,
    ImageJobOptions,
    Others,
    Out,
    Overrides,
    Size,
    TokenTypes,
    file_in,
)
from sightword.engine.contract import Command
from sightword.engine.system import closest, demo_parts, experiments, presets, scales, system_checks, systems
from sightword.errors import SightwordError


def evaluate(
    run: Path,  # a run directory
    checkpoint: str = "best",  # best, last, or a file
    out: Out | None = None,  # the JSON file, or a folder for it; if empty, in the run directory
    split: str = "val",  # val, or test where the data have one
    overrides: Overrides = (),
) -> None:
    """Measure a run's checkpoint on data it was not trained on, and write the metrics with their protocol.

    Writes evaluation.json (evaluation_test.json for split=test); beside it results of each item, for sightword table,
    tables, as CSV and text, and images.
    What validation chose, such as thresholds, is used for the test split as it is.
    Fields of the config can be given too: data.val_root=photos, system.use_lpips=true system.lpips_weights=vgg16.pth,
    system.fid_weights=pt_inception-2015-12-05-6726825d.pth.
    """
    from sightword.engine.evaluation import Source, evaluation_name, write_evaluation
    from sightword.engine.fit import evaluate as measure
    from sightword.engine.split import choose, tell

    config = change_config(runs.read_config(run), overrides)
    runs.set_threads(config.trainer.threads, 1)
    task, config, used = runs.restore(run, checkpoint, config)
    chosen = choose(config, run, [split])
    tell(chosen.findings)
    evaluator, loader = runs.make_evaluator(config, task), runs.held_out(config, split, task, chosen.names)
    metrics = measure(task, evaluator, loader, config)
    file = file_in(out or run, evaluation_name(split))
    found = tuple(str(each) for each in chosen.findings)
    source = Source(run, used, split, chosen.digest, tuple(overrides), found)
    written = write_evaluation(file, evaluator, loader, metrics, source)
    protocol, notes = evaluator.protocol(), evaluator.notes()
    print("\n".join([*([protocol["split"]] if "split" in protocol else []), *metric_lines(metrics, notes)]))
    beside = f"; beside it {', '.join(str(path) for path in written)}" if written else ""
    print(f"evaluated {used}; metrics and protocol written to {file}{beside}")


def export(
    run: Path,  # a run directory
    out: Out,  # the folder to write
    checkpoint: str = "best",  # best, last, or a file
) -> None:
    """Write what inference needs of a run, and nothing else: safetensors and config.json."""
    from sightword.engine.predictor import load

    runs.read_config(run)  # what was exported before is no run
    load(run, checkpoint).save_pretrained(out)
    print(f"{run} ({checkpoint}) exported to {out}")
    print(f"next, in Python: sightword.load({str(out)!r}); {out}/README.md is its model card")


def check(
    dataset: str,  # images, or a dataset that a system trains on
    root: Path | None = None,  # its folder
    path: Path | None = None,  # or its file
    out: Out | None = None,  # a text file to list every finding in; the report shows the first of each kind
    others: Others = (),
) -> None:
    """Check that a dataset is whole: a line for each kind of finding. Exit status 1 if a result would be wrong.

    Some datasets take more keys. For intentonomy, and for one's own labels and captions, images= is the folder of the
    images, if they do not lie below root.
    """
    if (root is None) == (path is None):
        wrong = "root and path mean the same, give one" if root else "sightword check needs root=…, or path=…"
        raise SightwordError(f"{wrong}: where the dataset lies; sightword check --help says more")
    checks = system_checks()
    if dataset not in checks:
        near = closest(dataset, checks)
        raise SightwordError(f"there is no dataset {dataset!r}{near}; these can be checked: {', '.join(checks)}")
    given = read_arguments(f"check dataset={dataset}", checks[dataset], [f"root={root or path}", *others])
    report = checks[dataset](**given)
    print(report)
    if out:
        file = file_in(out, "findings.txt")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(report.listed(), encoding="utf-8")
        print(f"every finding is listed in {file}")
    if report.errors:
        raise SystemExit(1)


def cache(
    tower: str,  # vit_b16, vit_l14, siglip_b16 …; an open_clip model with tag=; a Hugging Face name; a folder of either
    images: Path,  # a folder of images
    out: Out,  # the folder of the cache
    token_type: TokenTypes = ("post",),  # with commas: post, and for a CLIP joint, value, qq, kk, qq+gauss, kk+gauss
    tag: str = "",  # of an open_clip model: the name or the file of its weights
    size: Size | None = None,  # of the images in the tower, height x width; empty: the tower's own
    dtype: Dtype = "float32",  # to compute in: fp32, bf16, fp16
    disk: Dtype = "float16",  # to keep: fp16, fp32
    job: ImageJobOptions = ImageJobOptions(),
) -> None:
    """Encode a folder of images by a frozen tower and keep the tokens; only images that are new are computed.

    After Ctrl-C, run the same command again to encode the rest.
    """
    from sightword.towers.token_cache import Source, cache_tokens

    options = {"tag": tag, "size": height_width(size) if size else None, "dtype": torch_dtype(dtype)}
    kept = cache_tokens(
        Source(tower, options),
        images,
        out,
        token_type,
        disk,
        job.batch_size,
        job.shard_size,
        job.on_error,
        engine=job.engine,
        workers=job.workers,
        gpus=job.gpus,
    )
    missing = len(set(kept.index.values()) - kept.keys())
    print(f"{len(kept)} images in {out}" + (f"; {missing} of {images} without tokens" if missing else ""))
    if (path := next(iter(kept), None)) is not None:
        print(f"read it: TokenCache({str(out)!r})[{path!r}][{token_type[0]!r}]")


def list_experiments() -> None:
    """List the experiments (what, data, cost, expected score), their scales and the presets."""
    width = max(len(name) for name, _ in experiments())
    for name, file in experiments():
        header = [line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        what, *rest = [line for line in header if line and not line.startswith(("@", "sightword "))] or [""]
        print(f"{name:<{width}} {what}")
        for line in rest:
            print(f"{'':<{width}}   {line}")
    print("\nscale=")
    for system in systems():
        if known := scales(system):
            print(f"  {system:<{width - 1}} {', '.join(known)}")
    for system, rows in presets().items():
        listed = textwrap.fill(", ".join(rows), 112, initial_indent="  ", subsequent_indent="  ")
        print(f"\npreset= of {system}\n{listed}")


def mini(
    out: Out = Path("mini"),  # the folder
) -> None:
    """Write synthetic datasets and tiny towers in the formats of the real ones, to try everything without a network.

    The CLIP among them is trained, about half a minute, and kept for the next time.
    """
    from sightword.miniature.contents import write_all

    for part in write_all(out):
        print(f"{out / part.folder}: {part.what}")
        print(f"    {part.opened.format(out / part.folder)}")


DEMO = Path("runs/demo")


def demo(
    out: Out = DEMO,  # the folder for the page and the runs
) -> None:
    """Train and show every system in miniature, offline, and write one page with the images."""
    from sightword.viz.page import make_page

    make_page(out, demo_parts(), train_in)
    if out == DEMO:
        print("next: sightword serve, to ask the five models in a browser (pip install 'sightword[serve]')")


#: Of a room that this one does not import: the module, whose import is light, names the function as the command.
SERVE: Command = cast("Command", import_module("sightword.serve.command").serve)

COMMANDS: dict[str, Command] = {
    "evaluate": evaluate,
    "table": table,
    "list": list_experiments,
    "check": check,
    "cache": cache,
    "export": export,
    "mini": mini,
    "demo": demo,
    "serve": SERVE,
    "completion": completion,
}
