"""sightword <verb> [key=value ...]: the command line. No torch is imported before a verb has understood its words.

`train` is configured by Hydra: experiments are YAML files under configs/experiment, fields are dataclasses. All other
verbs are Python functions whose signature says what they take. A system's own verbs are the functions that
`systems/<name>/verbs.py` lists in `VERBS`.
"""

import difflib
import inspect
import pkgutil
import re
import sys
import textwrap
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sightword
from sightword import run as runs
from sightword import systems

if TYPE_CHECKING:
    from sightword.configs import Run

Verb = Callable[..., Any]


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 interrupted (resumable), 2 a mistake of the user's, said in one line."""
    words = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        return _dispatch(words)
    except BrokenPipeError:  # sightword list | head
        sys.stderr.close()
        return 0
    except (ValueError, OSError, KeyError) as error:  # what our own code tells users; anything else is our defect
        if debug:
            raise
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        print(f"sightword: {' '.join(str(text).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("sightword: stopped", file=sys.stderr)
        return 1


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] == "--version":
        print(f"sightword {sightword.__version__}")
        return 0
    verb, rest = words[0], words[1:]
    if verb == "train":
        return train(rest)
    verbs = {**VERBS, **_system_verbs()}
    if verb not in verbs:
        raise ValueError(f"there is no verb {verb!r}{_closest(verb, ['train', *verbs])}; sightword --help lists them")
    if any(word in ("-h", "--help") for word in rest):
        print(_usage(verb, verbs[verb]))
        return 0
    verbs[verb](**_arguments(verb, verbs[verb], rest))
    return 0


# ------------------------------------------------------------------------------------------------ words to arguments


def _arguments(verb: str, function: Verb, words: Sequence[str]) -> dict[str, Any]:
    """`key=value` words as the function's keyword arguments, by its annotations.

    A function with the keyword-only argument `fields` is given the words whose key has a dot: the config's own fields.
    One with `others` is given the words whose key it does not know.
    One with `words` is given those that are no key=value, as a sentence is.
    """
    every: Mapping[str, inspect.Parameter] = inspect.signature(function).parameters
    parameters = {name: p for name, p in every.items() if p.kind is not p.KEYWORD_ONLY}
    given: dict[str, Any] = {}
    if "fields" in every:
        given["fields"] = [word for word in words if "." in word.partition("=")[0]]
        words = [word for word in words if word not in given["fields"]]
    if "others" in every:
        given["others"] = [word for word in words if "=" in word and word.partition("=")[0] not in parameters]
        words = [word for word in words if word not in given["others"]]
    if "words" in every:
        given["words"] = [word for word in words if not re.match(r"\w+=", word)]
        words = [word for word in words if word not in given["words"]]
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r} is not key=value; sightword {verb} --help says what there is")
        if key not in parameters:
            raise ValueError(
                f"sightword {verb} takes no {key!r}{_closest(key, parameters)}; it takes {', '.join(parameters)}"
            )
        given[key] = _value(key, value, parameters[key].annotation)
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in given:
            raise ValueError(f"sightword {verb} needs {name}=…; sightword {verb} --help says more")
    return given


def _value(key: str, text: str, kind: Any) -> Any:
    """kind: str, int, float or bool, or its name, where annotations are kept as text."""
    kind = {"str": str, "int": int, "float": float, "bool": bool}.get(kind, kind)
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        return kind(text)
    except (ValueError, KeyError):
        raise ValueError(f"{key}={text}: {getattr(kind, '__name__', kind)} is wanted") from None


def _closest(word: str, known: Sequence[str] | typing.Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _help() -> str:
    lines = [
        f"sightword {sightword.__version__}: tie what is seen to words",
        "",
        "usage: sightword <verb> [key=value ...]",
        "",
    ]
    listed = {"train": train, **VERBS, **_system_verbs()}
    width = max(map(len, listed))
    lines += [f"  {name:<{width}}  {_summary(function)}" for name, function in listed.items()]
    lines += ["", "sightword <verb> --help explains one; --debug shows the traceback of an error."]
    return "\n".join(lines)


def _summary(function: Verb) -> str:
    return inspect.getdoc(function).split("\n")[0] if function.__doc__ else ""  # type: ignore[union-attr]


def _usage(verb: str, function: Verb) -> str:
    lines = [f"sightword {verb}: {inspect.getdoc(function)}", ""]
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            continue
        needed = parameter.default is parameter.empty
        lines.append(f"  {name}=" + ("…  (needed)" if needed else f"{parameter.default}"))
    return "\n".join(lines)


# ----------------------------------------------------------------------------------------------------------- systems


def system_names() -> list[str]:
    """A folder under `systems` with a config.py is a system."""
    names = [module.name for module in pkgutil.iter_modules(systems.__path__) if module.ispkg]
    return [name for name in names if _has(name, "config.py")]


def _has(system: str, file: str) -> bool:
    return any((Path(place) / system / file).exists() for place in systems.__path__)


def demo_parts() -> list[str]:
    """The packages that take part in the demo: the small world, and the systems with a demo.py."""
    found = [f"sightword.systems.{name}" for name in system_names() if _has(name, "demo.py")]
    return ["sightword.miniature", *found]


def _system_verbs() -> dict[str, Verb]:
    found: dict[str, Verb] = {}
    for system in system_names():
        if _has(system, "verbs.py"):
            found |= {verb.__name__: verb for verb in runs.module_of(system, "verbs").VERBS}
    return found


def experiments() -> list[tuple[str, Path]]:
    """(name, YAML file) of every experiment, as `experiment=name` takes it; the first of a name counts."""
    files = [file for folder in _config_folders() for file in sorted((folder / "experiment").glob("*/*.yaml"))]
    return list({f"{file.parent.name}/{file.stem}": file for file in reversed(files)}.items())[::-1]


def presets(system: str) -> dict[str, list[str]]:
    """Name → words of every preset of a system, from configs/preset/<system>.yaml: the rows of a document's tables."""
    import yaml

    files = [file for folder in _config_folders() if (file := folder / "preset" / f"{system}.yaml").exists()]
    found = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in reversed(files)]
    return {name: line.split() for each in found for name, line in each.items()}


def _config_folders() -> list[Path]:
    return [folder for place in sightword.__path__ if (folder := Path(place) / "configs").is_dir()]


# ------------------------------------------------------------------------------------------------------------- train


def train(words: list[str]) -> int:
    """Train an experiment: sightword train experiment=tokenizer/mini data.root=photos

    Any field of the config can be given as key=value. preset=<name> stands for an experiment and some values, which
    those given besides it overrule; sightword list names them. resume=<run folder> goes on with a run that was stopped,
    to the result it would have had. Hydra's flags work as well: --cfg job prints the config, -m sweeps over lists of
    values.
    """
    if any(word in ("-h", "--help") for word in words):
        print(_train_usage(words))
        return 0
    words = _without_preset(words)
    if any(word.startswith("-") for word in words):
        return _train_by_hydra(words)
    resumed = [word.removeprefix("resume=") for word in words if word.startswith("resume=")]
    others = [word for word in words if not word.startswith("resume=")]
    if resumed:
        folder = Path(resumed[-1])
        if any(word.startswith("experiment=") for word in others):
            raise ValueError(f"resume={folder} knows its experiment: leave experiment= away")
        return _tell(runs.start(_change(runs.read_config(folder), others), folder))
    return _tell(runs.start(_compose(others)))


def _without_preset(words: list[str]) -> list[str]:
    """preset=<name> as the words that it stands for, before all others."""
    named = [word.removeprefix("preset=") for word in words if word.startswith("preset=")]
    if not named:
        return words
    known = {name: told for system in system_names() for name, told in presets(system).items()}
    if named[-1] not in known:
        raise ValueError(f"there is no preset {named[-1]!r}{_closest(named[-1], known)}; sightword list names them")
    others = [word for word in words if not word.startswith("preset=")]
    if any(word.startswith(("experiment=", "resume=")) for word in others):
        raise ValueError(f"preset={named[-1]} knows its experiment: leave experiment= and resume= away")
    return [*known[named[-1]], *others]


def train_in(folder: Path, words: list[str]) -> bool:
    """`train` in a folder of the caller's choice; whether it was finished."""
    saved = (folder / "checkpoints" / "last.ckpt").exists()
    config = _change(runs.read_config(folder), []) if saved else _compose(words)
    return _tell(runs.start(config, folder)) == 0


def _tell(result: Any) -> int:
    """Say how a run ended and what to type next. Exit status."""
    if runs.is_first_process():
        print(_ending(result))
    return 0 if result.finished else 1


def _ending(result: Any) -> str:
    if not result.finished:
        return f"stopped; go on with: sightword train resume={result.folder}"
    shown = result.best or result.measures
    shown_plain = {name.removeprefix("val/"): value for name, value in shown.items() if name != "batches"}
    lines = _measured(shown_plain, result.protocol)
    at = f"best, batch {shown['batches']:.0f}" if result.best else "last"
    return "\n".join(
        [f"validation ({at})", *lines, f"written to {result.folder}", f"next: sightword evaluate run={result.folder}"]
    )


def _measured(measures: Mapping[str, float], protocol: Mapping[str, Any]) -> list[str]:
    """A line for each measure, with the protocol's word on it."""
    notes = protocol.get("measures", {})
    return [f"  {name:<20} {value:<10.4g} {notes.get(name, '')}".rstrip() for name, value in measures.items()]


def _compose(words: list[str]) -> "Run":
    """The config of an experiment, with the words' values in it."""
    from hydra import compose, initialize_config_module

    name = _experiment(words)
    _register_schemas(name.split("/")[0])
    with _hydra_says(), initialize_config_module("sightword.configs", version_base=None):
        config = compose("train", overrides=[*_groups(name), *_search_path(), *map(_quoted, _scaled(name, words))])
        return _as_run(config, name)


def _change(config: "Run", words: Sequence[str]) -> "Run":
    """A config with the words' values in it."""
    from omegaconf import OmegaConf

    with _hydra_says():
        words = [f"{word}''" if word.endswith("=") else word for word in words]  # nothing is a text, as for Hydra
        parsed = OmegaConf.from_dotlist([word.replace("=~/", f"={Path.home()}/", 1) for word in words])
        return _as_run(OmegaConf.merge(OmegaConf.structured(config), parsed), config.experiment)


def _as_run(config: Any, name: str) -> "Run":
    from omegaconf import OmegaConf

    config.experiment = name
    return typing.cast("Run", OmegaConf.to_object(config))


def _quoted(word: str) -> str:
    """A word in Hydra's grammar, in which most signs of a path mean something: ~ ( ) , and spaces."""
    key, equals, value = word.partition("=")
    if not equals or re.fullmatch(r"[\w\-./:+%@]*", value) or value[0] in "[{'\"$":
        return word
    value = str(Path(value).expanduser()) if value.startswith("~/") else value
    return f"{key}='" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


@contextmanager
def _hydra_says() -> Iterator[None]:
    """Turn what Hydra and OmegaConf raise into one line."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (HydraException, OmegaConfBaseException) as error:
        raise ValueError(_hydra_line(error)) from error


def _experiment(words: Sequence[str]) -> str:
    names = [word.removeprefix("experiment=") for word in words if word.startswith("experiment=")]
    known = [name for name, _ in experiments()]
    if not names:
        raise ValueError(f"name what to train, experiment=…: {', '.join(known)}")
    if names[-1] not in known:
        raise ValueError(f"there is no experiment {names[-1]!r}{_closest(names[-1], known)}; sightword list shows them")
    return names[-1]


def _register_schemas(system: str) -> None:
    from hydra.core.config_store import ConfigStore

    from sightword.configs import Run

    config = runs.module_of(system, "config")
    store = ConfigStore.instance()
    store.store(name="run", node=Run)
    store.store(group="system", name=system, node=config.System)
    store.store(group="data", name=system, node=config.Data)


def _scaled(experiment: str, words: Sequence[str]) -> list[str]:
    """scale=mini as the file configs/scale/<system>/mini.yaml."""
    system, found = experiment.split("/")[0], []
    for word in words:
        key, _, scale = word.partition("=")
        known = sorted({file.stem for place in _config_folders() for file in (place / "scale" / system).glob("*.yaml")})
        if key == "scale" and scale not in known:
            raise ValueError(f"{system} has no scale {scale!r}; it has {', '.join(known) or 'one only'}")
        found.append(f"scale={system}/{scale}" if key == "scale" else word)
    return found


def _groups(experiment: str) -> list[str]:
    system = experiment.split("/")[0]
    return [f"system={system}", f"data={system}"]


def _search_path() -> list[str]:
    others = [str(folder) for folder in _config_folders()[1:]]
    return [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in others)}]"] if others else []


def _hydra_line(error: Exception) -> str:
    """The sentence of a Hydra error that a user can act on."""
    causes = [error, *([error.__cause__] if error.__cause__ else [])]
    lines = [line.strip() for cause in reversed(causes) for line in str(cause).splitlines() if line.strip()]
    told = next((line for line in lines if "Key '" in line or "could not be converted" in line.lower()), lines[0])
    if "not in struct" in told or told.startswith("Key "):
        told = f"{told}; sightword train experiment=… --cfg job shows every key"
    key = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("full_key:")), "")
    if "not in struct" in told and "." in key:
        told = f"{told}, +{key}=… adds one"
    return f"{key}: {told}" if key and key not in told else told


def _train_by_hydra(words: list[str]) -> int:
    """Hydra's own front, for its flags."""
    import hydra

    flags = [word for word in words if word.startswith("-") or "=" not in word]
    values = [word for word in words if word not in flags]
    sweep = any(word in ("-m", "--multirun") for word in flags)
    if sweep and any("ddp" in word or word.startswith("trainer.devices=") for word in values):
        raise ValueError("a sweep cannot start several processes, each would sweep again: run them one at a time")
    name = _experiment(values)
    words = _scaled(name, values)
    if sweep:
        _register_schemas(name.split("/")[0])
    else:
        _compose(values)  # Hydra's own words on a mistake are a page

    def job(config: Any) -> None:
        sys.argv = before  # from which Lightning starts the other processes of a DDP run
        _tell(runs.start(_as_run(config, name)))

    before = list(sys.argv)
    sys.argv = [before[0], *flags, *(words if sweep else map(_quoted, words)), *_groups(name), *_search_path()]
    try:
        hydra.main(version_base=None, config_path="pkg://sightword.configs", config_name="train")(job)()
    finally:
        sys.argv = before
    return 0


def _train_usage(words: Sequence[str]) -> str:
    """Every field a run can be told, with the comment that stands beside it in its dataclass."""
    from sightword import configs

    named = [word.removeprefix("experiment=") for word in words if word.startswith("experiment=")]
    systems_told = [name.split("/")[0] for name in named] or system_names()
    lines = [f"sightword train: {inspect.getdoc(train)}", "", *_fields("", configs.Run)]
    for name in systems_told:
        schema = runs.module_of(name, "config")
        lines += ["", f"{name}:", *_fields("system.", schema.System), *_fields("data.", schema.Data)]
    return "\n".join([*lines, "", *_fields("optim.", configs.Optim), "", *_fields("trainer.", configs.Trainer)])


def _fields(prefix: str, kind: type) -> list[str]:
    found = re.findall(r"^    (\w+): ([^=\n]+) = (.+?)(?:  # (.*))?$", inspect.getsource(kind), re.MULTILINE)
    plain = [
        (name, value, told) for name, hint, value, told in found if name not in ("system", "data", "optim", "trainer")
    ]
    shown = [(f"{prefix}{name}={_default(value)}", told) for name, value, told in plain]
    return [f"  {field:<44} {told}".rstrip() for field, told in shown]


def _default(value: str) -> str:
    return re.sub(r"field\(default_factory=(?:lambda: )?(.*)\)", r"\1", value).replace("list", "[]").replace('"', "")


# ------------------------------------------------------------------------------------------------ verbs of every system


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
    import json

    from sightword.atomic import write_atomically
    from sightword.train import evaluate as measure

    config = _change(runs.read_config(Path(run)), fields)
    task, config, used = runs.restore(Path(run), checkpoint, config)
    loader = runs.held_out(config, split, task)
    measures = measure(task, loader, config)
    file = Path(out or Path(run) / ("evaluation.json" if split == "val" else f"evaluation_{split}.json"))
    file.parent.mkdir(parents=True, exist_ok=True)
    protocol, tables = task.protocol(), task.tables()
    report = {"run": run, "checkpoint": str(used), "measures": measures, "protocol": protocol, "tables": tables}
    with write_atomically(file) as part:
        part.write_text(json.dumps(report, indent=2) + "\n")
    written = [path for name, rows in tables.items() for path in _write_table(file, name, rows, protocol)]
    written += task.draw(loader, file.with_name(f"{file.stem}_pictures"))
    print("\n".join([*([protocol["split"]] if "split" in protocol else []), *_measured(measures, protocol)]))
    beside = f", {', '.join(str(path) for path in written)} beside it" if written else ""
    print(f"{used}, measured; written to {file} with the protocol{beside}")


def _write_table(report: Path, name: str, rows: Sequence[Mapping[str, Any]], protocol: Mapping[str, Any]) -> list[Path]:
    """Rows as <report>_<name>.csv, for programs, and .txt, for eyes, with the protocol's plain lines above."""
    import csv

    from sightword.atomic import write_atomically

    files = [report.with_name(f"{report.stem}_{name}{suffix}") for suffix in (".csv", ".txt")]
    with write_atomically(files[0]) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    told = [f"{what}: {text}" for what, text in protocol.items() if isinstance(text, str)]
    with write_atomically(files[1]) as part:
        part.write_text("\n".join([*told, "", *_columns(rows)]) + "\n", encoding="utf-8")
    return files


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows in columns as wide as they need be: numbers to the right, those with a fraction to three digits."""
    cells = [[_cell(value) for value in row.values()] for row in rows]
    names = list(rows[0])
    right = [all(isinstance(row[name], int | float | None) for row in rows) for name in names]
    widths = [max(len(line[column]) for line in [names, *cells]) for column in range(len(names))]
    aligned = [
        [f"{c:>{w}}" if r else f"{c:<{w}}" for c, w, r in zip(line, widths, right, strict=True)]
        for line in [names, *cells]
    ]
    return ["  ".join(line).rstrip() for line in aligned]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def export(run: str, out: str, checkpoint: str = "best") -> None:
    """Write what inference needs of a run, and nothing else: safetensors and a config.

    run: a run's folder. out: the folder to write. checkpoint: best, last or a file.
    """
    task, _, used = runs.restore(Path(run), checkpoint)
    task.export(Path(out))
    print(f"{used} written to {out}")


def check(dataset: str, root: str = "", path: str = "", *, others: Sequence[str] = ()) -> None:
    """Is this data set whole? Names every missing or broken file.

    dataset: images, or one that a system trains on. root: its folder, or path: its file; the two are one. Some can be
    told more: of intentonomy images= is the folder of the pictures, where they do not lie below root.
    """
    if bool(root) == bool(path):
        wanted = "root and path are the same thing, give one" if root else "sightword check needs root=…, or path=…"
        raise ValueError(f"{wanted}: where the data set lies; sightword check --help says more")
    checks: dict[str, Callable[..., Any]] = {}
    for system in system_names():
        if _has(system, "verbs.py"):
            checks |= getattr(runs.module_of(system, "verbs"), "CHECKS", {})
    if dataset not in checks:
        raise ValueError(
            f"there is no data set {dataset!r}{_closest(dataset, checks)}; these can be checked: {', '.join(checks)}"
        )
    told = _arguments(f"check dataset={dataset}", checks[dataset], [f"root={root or path}", *others])
    report = checks[dataset](**told)
    print(report)
    if report.problems:
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

    from sightword.tokens import Source, cache_tokens, size_of

    kinds = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype not in kinds:
        raise ValueError(f"dtype is {', '.join(kinds)}; got {dtype!r}")
    source = Source(tower, {"tag": tag, "size": size_of(size), "dtype": kinds[dtype]})
    forms = tokens.split(",") if tokens else ["post"]
    kept = cache_tokens(
        source, images, out, forms, disk, batch_size, shard_size, on_error, engine=engine, workers=workers, gpus=gpus
    )
    lacking = len(set(kept.index.values()) - kept.keys())
    print(f"{len(kept)} images in {out}" + (f"; {lacking} of {images} without tokens" if lacking else ""))
    if (path := next(iter(kept), None)) is not None:
        print(f"read it: TokenCache({out!r})[{path!r}][{forms[0]!r}]")


def list_experiments() -> None:
    """List the experiments: what, data, cost, expected score."""
    for name, file in experiments():
        header = [line[1:].strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        what, *rest = [line for line in header if line and not line.startswith(("@", "sightword "))] or [""]
        print(f"{name:<20} {what}")
        for line in rest:
            print(f"{'':<20}   {line}")
    for system in system_names():
        if known := presets(system):
            told = textwrap.fill(", ".join(known), 112, initial_indent="  ", subsequent_indent="  ")
            print(f"{system}, preset=\n{told}")


def mini(out: str = "mini") -> None:
    """Write small worlds and tiny towers in the formats of the real ones, to try everything without a network.

    out: the folder. The CLIP among them is trained here, half a minute once, and kept for the next time.
    """
    from sightword.miniature.contents import write_all

    if not out:
        raise ValueError("out is empty: give a folder (out=. is this one)")
    root = Path(out).expanduser()
    for part in write_all(root):
        print(f"{root / part.folder}: {part.what}")
        print(f"    {part.opened.format(root / part.folder)}")


def demo(out: str = "runs/demo") -> None:
    """Run everything in miniature, offline, and write one page with the pictures."""
    from sightword.demo import make_page

    make_page(Path(out), demo_parts(), train_in)


VERBS: dict[str, Verb] = {
    "evaluate": evaluate,
    "list": list_experiments,
    "check": check,
    "cache": cache,
    "export": export,
    "mini": mini,
    "demo": demo,
}


if __name__ == "__main__":
    sys.exit(main())
