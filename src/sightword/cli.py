"""sightword <verb> [key=value ...]: the command line. No torch is imported before a verb has understood its words.

`train` is configured by Hydra: experiments are YAML files under configs/experiment, fields are dataclasses. All other
verbs are Python functions whose signature says what they take. A system's own verbs are the functions that
`systems/<name>/verbs.py` lists in `VERBS`.
"""

import difflib
import importlib
import inspect
import os
import pkgutil
import shutil
import sys
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import sightword
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
    if verb == "evaluate":  # the one verb, besides train, that takes the config's own fields
        fields = [word for word in rest if "." in word.partition("=")[0]]
        evaluate(**_arguments(verb, evaluate, [word for word in rest if word not in fields]), fields=fields)
        return 0
    verbs[verb](**_arguments(verb, verbs[verb], rest))
    return 0


# ------------------------------------------------------------------------------------------------ words to arguments


def _arguments(verb: str, function: Verb, words: Sequence[str]) -> dict[str, Any]:
    """`key=value` words as the function's keyword arguments, by its annotations."""
    parameters: Mapping[str, inspect.Parameter] = inspect.signature(function).parameters
    hints = typing.get_type_hints(function)
    given: dict[str, Any] = {}
    parameters = {name: p for name, p in parameters.items() if p.kind is not p.KEYWORD_ONLY}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            raise ValueError(f"{word!r} is not key=value; sightword {verb} --help says what there is")
        if key not in parameters:
            raise ValueError(
                f"sightword {verb} takes no {key!r}{_closest(key, parameters)}; it takes {', '.join(parameters)}"
            )
        given[key] = _value(key, value, hints[key])
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in given:
            raise ValueError(f"sightword {verb} needs {name}=…; sightword {verb} --help says more")
    return given


def _value(key: str, text: str, kind: Any) -> Any:
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


def demo_systems() -> list[str]:
    """The systems that take part in the demo."""
    return [name for name in system_names() if _has(name, "demo.py")]


def _system_module(system: str, name: str) -> ModuleType:
    return importlib.import_module(f"sightword.systems.{system}.{name}")


def _system_verbs() -> dict[str, Verb]:
    found: dict[str, Verb] = {}
    for system in system_names():
        if _has(system, "verbs.py"):
            found |= {verb.__name__: verb for verb in _system_module(system, "verbs").VERBS}
    return found


def experiments() -> Iterator[tuple[str, Path]]:
    """(name, YAML file) of every experiment, as `experiment=name` takes it."""
    for folder in _config_folders():
        for file in sorted((folder / "experiment").glob("*/*.yaml")):
            yield f"{file.parent.name}/{file.stem}", file


def _config_folders() -> list[Path]:
    return [folder for place in sightword.__path__ if (folder := Path(place) / "configs").is_dir()]


# ------------------------------------------------------------------------------------------------------------- train


def train(words: list[str]) -> int:
    """Train an experiment: sightword train experiment=tokenizer/mini data.root=photos

    Any field of the config can be given as key=value: system.*, data.*, optim.*, trainer.*, logger=[swanlab], seed.
    resume=<run folder> goes on with a run that was stopped, to the result it would have had.
    Hydra's flags work as well: --cfg job prints the config, -m sweeps over lists of values.
    """
    if any(word in ("-h", "--help") for word in words):
        print(_usage("train", lambda: None).splitlines()[0].replace("None", inspect.getdoc(train) or ""))
        return 0
    if any(word.startswith("-") for word in words):
        return _train_by_hydra(words)
    resumed = [word.removeprefix("resume=") for word in words if word.startswith("resume=")]
    if resumed:
        folder = Path(resumed[-1])
        config = _compose([word for word in words if not word.startswith("resume=")], saved=_saved_config(folder))
        return _train(config, folder)
    config = _compose(words)
    return _train(config, _new_folder(config))


def train_in(folder: Path, words: list[str]) -> int:
    """`train`, but in a folder of the caller's choice."""
    return _train(_compose(words), folder)


def _compose(words: list[str], saved: dict[str, Any] | None = None) -> "Run":
    """The config of an experiment (or the one a run was started with), with the words' values in it."""
    from hydra import compose, initialize_config_module
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    name = saved["experiment"] if saved else _experiment(words)
    _register_schemas(name.split("/")[0])
    try:
        with initialize_config_module("sightword.configs", version_base=None):
            if saved:
                config = compose("train", overrides=_groups(name))
                config = typing.cast(Any, OmegaConf.merge(config, saved, OmegaConf.from_dotlist(words)))
            else:
                config = compose("train", overrides=[*_groups(name), *_search_path(), *words])
        config.experiment = name
        return typing.cast("Run", OmegaConf.to_object(config))
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

    config = _system_module(system, "config")
    store = ConfigStore.instance()
    store.store(name="run", node=Run)
    store.store(group="system", name=system, node=config.System)
    store.store(group="data", name=system, node=config.Data)


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
    return f"{key}: {told}" if key and key not in told else told


def _train_by_hydra(words: list[str]) -> int:
    """Hydra's own front, for its flags."""
    import hydra
    from omegaconf import OmegaConf

    name = _experiment(words)
    if any(word in ("-m", "--multirun") for word in words) and any("ddp" in word for word in words):
        raise ValueError("a sweep cannot start DDP processes, each would sweep again: use torchrun, one run at a time")
    _register_schemas(name.split("/")[0])

    before = list(sys.argv)

    def job(config: Any) -> None:
        sys.argv = before  # from which Lightning starts the other processes of a DDP run
        config.experiment = name
        run = typing.cast("Run", OmegaConf.to_object(config))
        _train(run, _new_folder(run))

    flags = [word for word in words if word.startswith("-") or "=" not in word]
    values = [word for word in words if word not in flags]
    sys.argv = [before[0], *flags, *values, *_groups(name), *_search_path()]
    try:
        hydra.main(version_base=None, config_path="pkg://sightword.configs", config_name="train")(job)()
    finally:
        sys.argv = before
    return 0


def _new_folder(config: "Run") -> Path:
    """runs/<experiment>/<time>, or <name>. Processes that Lightning starts learn it from the environment."""
    from datetime import datetime

    place = Path(config.out) / config.experiment
    if told := config.name or os.environ.get("SIGHTWORD_RUN"):
        if _is_first_process() and (place / told / "config.yaml").exists():
            raise ValueError(f"{place / told} holds a run: go on with resume={place / told}, or give another name=")
        return place / told
    if "TORCHELASTIC_RUN_ID" in os.environ:
        raise ValueError("under torchrun every process must write to the same folder: give the run a name=")
    name = now = datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    count = 1
    while (place / name).exists():
        name, count = f"{now}-{count + 1}", count + 1
    os.environ["SIGHTWORD_RUN"] = name
    return place / name


def _train(config: "Run", folder: Path) -> int:
    """Make the task and its loaders first, then train; a mistake leaves no folder behind."""
    fresh = not folder.exists()
    try:
        _set_threads(config.trainer.threads, config.trainer.devices)
        task, loaders = make_task(config), make_loaders(config)
        from sightword import train as loop

        folder.mkdir(parents=True, exist_ok=True)
        _save_config(config, folder)
        result = loop.run(task, loaders, config, folder)
    except Exception:
        if fresh and _is_first_process() and not list(folder.glob("checkpoints/*.ckpt")):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        os.environ.pop("SIGHTWORD_RUN", None)
    if _is_first_process():
        print(_ending(result, config))
    return 0 if result.finished else 1


def _is_first_process() -> bool:
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0


def make_task(config: "Run") -> Any:
    """The task of a config, with new weights drawn by the run's seed."""
    import torch

    torch.manual_seed(config.seed)
    return _system_module(config.experiment.split("/")[0], "task").make_task(config.system)


def make_loaders(config: "Run") -> Any:
    """What a config trains and validates on."""
    return _system_module(config.experiment.split("/")[0], "data").make_loaders(config.data, config.seed)


def _set_threads(threads: int, processes: int) -> None:
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(threads or max(1, cores // max(1, processes)))


def _ending(result: Any, config: "Run") -> str:
    if not result.finished:
        return f"stopped; go on with: sightword train resume={result.folder}"
    shown = result.best or result.measures
    lines = [f"  {name.removeprefix('val/'):<20} {value:.4g}" for name, value in shown.items() if name != "batches"]
    at = f"best by {config.trainer.monitor}, batch {shown['batches']:.0f}" if result.best else "last"
    return "\n".join(
        [f"validation ({at})", *lines, f"written to {result.folder}", f"next: sightword evaluate run={result.folder}"]
    )


def _save_config(config: "Run", folder: Path) -> None:
    import yaml

    from sightword.atomic import write_atomically

    with write_atomically(folder / "config.yaml") as part:
        part.write_text(yaml.safe_dump(config.plain(), sort_keys=False, allow_unicode=True))


def _saved_config(folder: Path) -> dict[str, Any]:
    import yaml

    file = folder / "config.yaml"
    if not file.exists():
        raise ValueError(f"{folder} is no run: it has no config.yaml")
    return yaml.safe_load(file.read_text())


# ------------------------------------------------------------------------------------------------ verbs of every system


def evaluate(run: str, checkpoint: str = "best", out: str = "", *, fields: Sequence[str] = ()) -> None:
    """Measure a run's checkpoint on its validation data, and write the measures with their protocol.

    run: a run's folder. checkpoint: best, last or a file. out: the JSON, evaluation.json in the run's folder if empty.
    Fields of the config can be given too: data.val_root=photos, system.use_lpips=true system.lpips_weights=vgg16.pth,
    system.fid_weights=pt_inception-2015-12-05-6726825d.pth.
    """
    import json

    from sightword.train import evaluate as measure

    task, config = load_run(run, checkpoint, fields)
    measures = measure(task, make_loaders(config).val, config)
    file = Path(out or Path(run) / "evaluation.json")
    from sightword.atomic import write_atomically

    report = {"run": str(run), "checkpoint": checkpoint, "measures": measures, "protocol": task.protocol()}
    with write_atomically(file) as part:
        part.write_text(json.dumps(report, indent=2) + "\n")
    for name, value in measures.items():
        print(f"  {name:<20} {value:.4g}")
    print(f"written to {file}, with the protocol")


def load_run(run: str, checkpoint: str = "best", words: Sequence[str] = ()) -> tuple[Any, "Run"]:
    """(task with a checkpoint's weights in eval mode, config with the words' values in it) of a run's folder."""
    from sightword.checkpoint import read_checkpoint

    folder = Path(run)
    config = _compose(list(words), saved=_saved_config(folder))
    _set_threads(config.trainer.threads, 1)
    kept = {name: folder / "checkpoints" / f"{name}.ckpt" for name in ("best", "last")}
    file = kept.get(checkpoint, Path(checkpoint))
    file = kept["last"] if checkpoint == "best" and not file.exists() else file  # nothing was monitored
    saved = read_checkpoint(file)
    writer = saved["config"]["experiment"] if "config" in saved else "another program"
    if writer != config.experiment:
        raise ValueError(f"{file} was written by {writer}, {run} is a run of {config.experiment}: give one of its own")
    task = make_task(config)
    try:
        task.load_state_dict({name.removeprefix("task."): weight for name, weight in saved["state_dict"].items()})
    except RuntimeError as error:
        told = str(error).splitlines()
        raise ValueError(
            f"{file} does not fit {folder / 'config.yaml'}: {told[min(1, len(told) - 1)].strip()}"
        ) from error
    return task.eval(), config


def export(run: str, out: str, checkpoint: str = "best") -> None:
    """Write what inference needs of a run, and nothing else: safetensors and a config.

    run: a run's folder. out: the folder to write. checkpoint: best, last or a file.
    """
    task, _ = load_run(run, checkpoint)
    task.export(Path(out))
    print(f"written to {out}")


def check(dataset: str, root: str) -> None:
    """Is this data set whole? Names every missing or broken file.

    dataset: images. root: its folder.
    """
    checks: dict[str, Callable[[str], Any]] = {}
    for system in system_names():
        if _has(system, "verbs.py"):
            checks |= getattr(_system_module(system, "verbs"), "CHECKS", {})
    if dataset not in checks:
        raise ValueError(
            f"there is no data set {dataset!r}{_closest(dataset, checks)}; these can be checked: {', '.join(checks)}"
        )
    report = checks[dataset](root)
    print(report)
    if report.problems:
        raise SystemExit(1)


def list_experiments() -> None:
    """List the experiments, a line each: what, data, cost, expected score."""
    for name, file in experiments():
        header = [line[1:].strip() for line in file.read_text().splitlines() if line.startswith("#")]
        told = [line for line in header if line and not line.startswith(("@", "sightword "))]
        print(f"{name:<22} {' '.join(told)}")


def demo(out: str = "runs/demo") -> None:
    """Run everything in miniature, offline, and write one page with the pictures."""
    from sightword.demo import make_page

    _set_threads(0, 1)
    make_page(Path(out))


VERBS: dict[str, Verb] = {
    "evaluate": evaluate,
    "list": list_experiments,
    "check": check,
    "export": export,
    "demo": demo,
}


if __name__ == "__main__":
    sys.exit(main())
