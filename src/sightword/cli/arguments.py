"""Turn `key=value` arguments into the keyword arguments of a command, which is a Python function."""

import inspect
import re
from collections.abc import Mapping, Sequence
from typing import Any

from sightword.engine.contract import Command
from sightword.engine.system import closest


def read_arguments(verb: str, function: Command, words: Sequence[str]) -> dict[str, Any]:
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
                f"sightword {verb} takes no {key!r}{closest(key, parameters)}; it takes {', '.join(parameters)}"
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
