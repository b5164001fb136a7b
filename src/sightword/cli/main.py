"""sightword <command> [key=value ...]: the command line. Nothing heavy is imported before a command is executed.

`train` is configured by Hydra: experiments are YAML files under configs/experiment, fields are dataclasses. All other
commands are Python functions whose signature says what they take. A system's own commands are those of its `System`.
"""

import os
import re
import sys
import traceback
from collections.abc import Mapping, Sequence

from sightword.cli.arguments import read_arguments
from sightword.cli.commands import COMMANDS
from sightword.cli.completion import complete
from sightword.cli.help import overview, usage
from sightword.cli.stream import Streams, lasting_streams
from sightword.cli.train import RUN_COMMANDS, run_usage
from sightword.engine.contract import Command
from sightword.engine.system import closest, system_commands
from sightword.errors import SightwordError, Unfinished, printable
from sightword.version import VERSION

DONE, LEFT, MISTAKE, DEFECT = 0, 1, 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Execute a command and return its exit status.

    0: done. 1: stopped, or something is left undone (`Unfinished`; output that did not fit on the disk). 2: an error in
    what the user gave, or a file that could not be read or written, in one line. 3: a defect of Sightword, with its
    traceback.
    """
    _wait_passively()
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    with lasting_streams() as streams:
        status = _status([argument for argument in arguments if argument != "--debug"], debug)
        return status or _lost(streams)


def _wait_passively() -> None:
    """Let the idle threads of OpenMP sleep. By default they spin, which takes the cores of other processes.

    OpenMP reads the variables once, with `import torch`. What the user set is kept: either variable counts for both.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ |= {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"}


def _status(argv: list[str], debug: bool) -> int:
    try:
        return _dispatch(argv)
    except KeyboardInterrupt:
        return _tell("stopped", LEFT)
    except (SightwordError, OSError, MemoryError) as error:
        if debug:
            raise
        return _tell(_described(error), LEFT if isinstance(error, Unfinished) else MISTAKE)
    except Exception as error:
        if debug:
            raise
        if (known := _known(error)) is not None:
            return _tell(known, MISTAKE)
        traceback.print_exc()
        return _tell("this is a defect of Sightword. Please report it, with the traceback, to its maintainers", DEFECT)


def _tell(message: str, status: int) -> int:
    print(f"sightword: {printable(message)}", file=sys.stderr)
    return status


def _lost(streams: Streams) -> int:
    """Return the status of what was printed."""
    if (failure := streams.failure()) is None:
        return DONE
    return _tell(f"part of the output is lost: {failure.strerror or failure}", LEFT)


def _described(error: Exception) -> str:
    """Return an error as one line; of an OSError its files, the operation's own words after them."""
    if isinstance(error, MemoryError):
        return f"out of memory. Use smaller sizes or batches. {error}".rstrip(". ")
    if isinstance(error, OSError) and not isinstance(error, SightwordError):
        files = " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)
        if isinstance(error, FileExistsError | NotADirectoryError) and files:
            return f"{files}: a file is where a folder has to be. Give another path, or move the file away"
        reason = error.strerror or str(error) or type(error).__name__
        return f"{files}: {reason}" if files else reason
    return str(error)


def _known(error: Exception) -> str | None:
    """Return the line for what libraries raise, as errors of their own, if the disk or the memory is full."""
    text = str(error)
    if found := re.search(r"([^(\n]*)\(os error \d+\)", text):  # safetensors, tokenizers
        return found[1].strip()
    if "PytorchStreamWriter" in text or "unexpected pos" in text:  # torch.save
        return f"a file could not be written whole. Is the disk full? {text.splitlines()[0]}"
    if type(error).__name__ == "OutOfMemoryError" or "DefaultCPUAllocator" in text:  # torch
        return f"out of memory. Use smaller sizes or batches. {text.splitlines()[0]}"
    return None


def _dispatch(argv: list[str]) -> int:
    commands: dict[str, Command] = {**COMMANDS, **system_commands()}
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(overview({**RUN_COMMANDS, **commands}))
    elif argv[0] == "--version":
        print(f"sightword {VERSION}")
    elif argv[0] == "--complete":  # the scripts of `sightword completion` ask
        print("\n".join(complete(" ".join(argv[1:]), commands)))
    elif argv[0] not in [*RUN_COMMANDS, *commands]:
        near = closest(argv[0], [*RUN_COMMANDS, *commands])
        raise SightwordError(f"there is no command {argv[0]!r}{near}; sightword --help lists them")
    else:
        return _execute(argv[0], argv[1:], commands)
    return DONE


def _execute(name: str, argv: Sequence[str], commands: Mapping[str, Command]) -> int:
    if any(argument in ("-h", "--help") for argument in argv):
        print(run_usage(name, argv) if name in RUN_COMMANDS else usage(name, commands[name]))
        return DONE
    if name in RUN_COMMANDS:
        return RUN_COMMANDS[name](argv)
    commands[name](**read_arguments(name, commands[name], argv))
    return DONE
