"""Shell completion: the scripts, and what they ask this program for."""

import dataclasses
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sightword.cli.arguments import Option, options_of
from sightword.cli.override import config_fields, kind_of, values_of
from sightword.cli.train import RUN_COMMANDS
from sightword.engine.argument import PLAIN, Positional, expanded
from sightword.engine.config import Optim, Run, Trainer
from sightword.engine.contract import Command
from sightword.engine.system import experiments, presets, scales, system_of, systems, tables
from sightword.errors import SightwordError


def completion(
    shell: Positional,  # bash, zsh or fish
) -> None:
    """Print a script that completes commands, keys, experiments and files in a shell: bash, zsh or fish.

    bash: sightword completion bash > ~/.local/share/bash-completion/completions/sightword
    zsh:  sightword completion zsh > "${fpath[1]}/_sightword"
    fish: sightword completion fish > ~/.config/fish/completions/sightword.fish
    """
    if len(shell) != 1 or shell[0] not in _SCRIPTS:
        raise SightwordError(f"expected one of {', '.join(_SCRIPTS)}. Type, for example, sightword completion bash")
    print(_SCRIPTS[shell[0]], end="")


def complete(line: str, commands: Mapping[str, Command]) -> list[str]:
    """Return what the last word of a command line can become."""
    words = _split(line)
    current = words[-1]
    if len(words) <= 2:
        return [name for name in (*RUN_COMMANDS, *commands, "--help", "--version") if name.startswith(current)]
    name, given = words[1], words[2:-1]
    if name in RUN_COMMANDS:
        found = _of_config(current, given)
    elif name == "completion":
        found = iter(_SCRIPTS)
    elif name in commands:
        found = _of_options(current, given, options_of(commands[name]))
    else:
        found = iter(())
    return [word for word in found if word.startswith(current)]


def _split(line: str) -> list[str]:
    try:
        words = shlex.split(line)
    except ValueError:  # a quote that is still open
        words = line.split()
    return words if words and not line[-1:].isspace() else [*words, ""]


def _of_options(current: str, given: Sequence[str], options: Mapping[str, Option]) -> Iterator[str]:
    key, equals, text = current.partition("=")
    if not equals:
        used = {argument.partition("=")[0] for argument in given}
        yield from (f"{name}=" for name in options if name not in used)
    elif key in options:
        parser = options[key].parser
        start, comma, _ = text.rpartition(",")
        yield from (f"{key}={start}{comma}{choice}" for choice in parser.choices)
        if parser.is_path:
            yield from (f"{key}={file}" for file in _files(text))


def _of_config(current: str, given: Sequence[str]) -> Iterator[str]:
    """Keys and values of a run's config, of the system whose experiment is given before."""
    named = [experiment.split("/")[0] for experiment in values_of(given, "experiment")]
    system = named[-1] if named and named[-1] in systems() else ""
    key, equals, text = current.partition("=")
    if not equals:
        used = {argument.partition("=")[0] for argument in given}
        yield from (f"{name}=" for name in _config_keys(system) if name not in used)
        return
    yield from (f"{key}={value}" for value in _config_values(key, text, system))


def _config_keys(system: str) -> list[str]:
    kinds: list[tuple[str, type]] = [("", Run), ("optim.", Optim), ("trainer.", Trainer)]
    if system:
        kinds += [("system.", system_of(system).Config), ("data.", system_of(system).Data)]
    keys = [field.key for prefix, kind in kinds for field in config_fields(kind, prefix)]
    return [*keys, "scale", "preset", "resume", "table"]


def _config_values(key: str, text: str, system: str) -> Sequence[str]:
    if key == "experiment":
        return [name for name, _ in experiments()]
    if key == "scale":
        return scales(system) if system else sorted({name for each in systems() for name in scales(each)})
    if key == "preset":
        return [name for rows in presets().values() for name in rows]
    if key == "table":
        return [name for rows in tables().values() for name in rows]
    if key == "resume":
        return _files(text)
    kind = kind_of(key, system) if system else _common_kind(key)
    if kind is bool:
        return PLAIN[bool].choices
    return _files(text) if kind is str else ()


def _common_kind(key: str) -> object:
    parts = {"optim": Optim, "trainer": Trainer}
    prefix, _, name = key.rpartition(".")
    kinds = {field.name: field.type for field in dataclasses.fields(parts.get(prefix, Run))}
    return kinds.get(name)


def _files(text: str) -> list[str]:
    """Return the files and folders whose paths begin with a text; folders end in a slash."""
    folder, start = os.path.split(text)
    try:
        entries = sorted(os.scandir(expanded(folder) if folder else Path()), key=lambda entry: entry.name)
    except OSError:
        return []
    shown = [entry for entry in entries if entry.name.startswith(start) and (start or not entry.name.startswith("."))]
    return [os.path.join(folder, entry.name) + ("/" if entry.is_dir() else "") for entry in shown]


_BASH = r"""_sightword() {
    local line="${COMP_LINE:0:COMP_POINT}" item cut="" breaks="" sign
    local word="${line##*[[:space:]]}"
    for sign in = : @; do [[ $COMP_WORDBREAKS == *"$sign"* ]] && breaks+="$sign"; done
    [[ -n $breaks ]] && cut="${word%"${word##*[$breaks]}"}"  # bash completes what follows the last of these alone
    COMPREPLY=()
    while IFS= read -r item; do
        [[ -n $item ]] || continue
        [[ $item == */ || $item == *= ]] && compopt -o nospace
        COMPREPLY+=("$(printf %q "${item#"$cut"}")")
    done < <("${COMP_WORDS[0]}" --complete "$line" 2>/dev/null)
}
complete -F _sightword sightword
"""

_ZSH = r"""#compdef sightword
_sightword() {
    local -a found unfinished finished
    found=("${(@f)$(${words[1]} --complete "$LBUFFER" 2>/dev/null)}")
    unfinished=(${(M)found:#*[=/]})
    finished=(${found:#*[=/]})
    (( $#unfinished )) && compadd -S '' -- $unfinished
    (( $#finished )) && compadd -- $finished
}
if [[ $funcstack[1] == _sightword ]]; then _sightword "$@"; else compdef _sightword sightword; fi
"""

_FISH = r"""complete -c sightword -f -a '(sightword --complete (commandline -cp) 2>/dev/null)'
"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
