"""sightword <command> [key=value ...]: the command line. Nothing heavy is imported before a command runs.

`train` is configured by Hydra: experiments are YAML files under configs/experiment, fields are dataclasses. All other
commands are Python functions whose signature says what they take. A system's own commands are the functions that
`systems/<name>/commands.py` lists in `COMMANDS`.
"""

import inspect
import sys
from collections.abc import Sequence

from sightword.cli.arguments import read_arguments
from sightword.cli.commands import COMMANDS
from sightword.cli.train import train
from sightword.engine.contract import Command
from sightword.engine.system import closest, system_commands
from sightword.version import VERSION


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
        print(f"sightword {VERSION}")
        return 0
    verb, rest = words[0], words[1:]
    if verb == "train":
        return train(rest)
    verbs = {**COMMANDS, **system_commands()}
    if verb not in verbs:
        raise ValueError(f"there is no verb {verb!r}{closest(verb, ['train', *verbs])}; sightword --help lists them")
    if any(word in ("-h", "--help") for word in rest):
        print(_usage(verb, verbs[verb]))
        return 0
    verbs[verb](**read_arguments(verb, verbs[verb], rest))
    return 0


def _help() -> str:
    lines = [
        f"sightword {VERSION}: tie what is seen to words",
        "",
        "usage: sightword <verb> [key=value ...]",
        "",
    ]
    listed = {"train": train, **COMMANDS, **system_commands()}
    width = max(map(len, listed))
    lines += [f"  {name:<{width}}  {_summary(function)}" for name, function in listed.items()]
    lines += ["", "sightword <verb> --help explains one; --debug shows the traceback of an error."]
    return "\n".join(lines)


def _summary(function: Command) -> str:
    return inspect.getdoc(function).split("\n")[0] if function.__doc__ else ""  # type: ignore[union-attr]


def _usage(verb: str, function: Command) -> str:
    lines = [f"sightword {verb}: {inspect.getdoc(function)}", ""]
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is parameter.KEYWORD_ONLY:
            continue
        needed = parameter.default is parameter.empty
        lines.append(f"  {name}=" + ("…  (needed)" if needed else f"{parameter.default}"))
    return "\n".join(lines)
