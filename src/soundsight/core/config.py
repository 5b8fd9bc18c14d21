"""Configurations are frozen keyword-only dataclasses; this file reads, writes and compares them.

An unknown key is an error that lists the choices, at every depth; a value of the wrong kind is an
error that says what is expected.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from soundsight.core.errors import ConfigError

C = TypeVar("C")

_SHOWN_CHARS = 40
_SCALARS = {int: "a whole number", bool: "true or false", str: "a text"}


def to_dict(config: Any) -> dict[str, Any]:
    """Return a JSON-ready dict of a config dataclass (tuples become lists)."""
    result: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(config)))
    return result


def from_dict(kind: type[C], values: Mapping[str, Any], where: str = "") -> C:
    """Build the config dataclass ``kind`` from ``values``.

    Raises:
        ConfigError: on a key that ``kind`` does not have, on a required key that is missing, or on
            a value that is not of the key's type.
    """
    if not isinstance(values, Mapping):
        name = where.rstrip(".") or kind.__name__
        raise ConfigError(f"{name}: a table of settings is expected")
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, kind))}
    for name in sorted(set(values) - set(fields)):
        choices = ", ".join(sorted(fields))
        raise ConfigError(f"unknown key {where}{name} for {kind.__name__}; choose from {choices}")
    hints = typing.get_type_hints(kind)
    kwargs = {key: _restored(hints[key], values[key], f"{where}{key}.") for key in values}
    for name, field in fields.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if required and name not in kwargs:
            raise ConfigError(f"missing key {where}{name} for {kind.__name__}")
    return kind(**kwargs)


def _restored(hint: Any, value: Any, where: str) -> Any:
    """A value of JSON as its type has it."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        if value is None:
            return None
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_dict(hint, value, where)
    expected = None
    if typing.get_origin(hint) is tuple:
        inner = typing.get_args(hint)
        if not isinstance(value, list | tuple):
            expected = "a list"
        elif inner[1:] == (Ellipsis,):
            inner = inner[:1] * len(value)
        elif len(inner) != len(value):
            expected = f"a list of {len(inner)}"
        if expected is None:
            places = enumerate(zip(inner, value, strict=True))
            return tuple(_restored(each, item, f"{where}{n}.") for n, (each, item) in places)
    # In Python true is a whole number, in a file of settings it is a mistake.
    elif hint is float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        with contextlib.suppress(OverflowError):
            if is_number and math.isfinite(value):
                return float(value)
        expected = "a finite number"
    elif hint in _SCALARS and type(value) is not hint:
        expected = _SCALARS[hint]
    if expected is None:
        return value
    shown = repr(value)
    shown = shown[:_SHOWN_CHARS] + "..." * (len(shown) > _SHOWN_CHARS)
    raise ConfigError(f"{where.rstrip('.')}: {expected} is expected, not {shown}")


def differences(old: Mapping[str, Any], new: Mapping[str, Any], where: str = "") -> list[str]:
    """Name the dotted keys whose values differ between two config dicts, sorted."""
    names: list[str] = []
    for key in sorted(set(old) | set(new)):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            names += differences(a, b, f"{where}{key}.")
        elif a != b:
            names.append(f"{where}{key}")
    return names


def choose(kind: str, name: str, choices: Mapping[str, C]) -> C:
    """Return ``choices[name]``; ``ConfigError`` names the choices when there is no such name."""
    if name not in choices:
        raise ConfigError(f"unknown {kind} {name!r}; choose from {', '.join(sorted(choices))}")
    return choices[name]


_RULES: dict[str, tuple[str, Callable[[float], bool]]] = {
    "above_0": ("must be above 0", lambda x: x > 0),
    "at_least_0": ("must not be negative", lambda x: x >= 0),
    "at_least_1": ("must be at least 1", lambda x: x >= 1),
    "share": ("must lie in [0, 1]", lambda x: 0 <= x <= 1),
    "below_1": ("must lie in [0, 1)", lambda x: 0 <= x < 1),
}


def check_values(config: Any, where: str = "", **rules: str | Iterable[str]) -> None:
    """Check the values of a config; None passes every rule.

    Args:
        config: whose attributes are checked.
        where: put before the name in messages, as ``loop.``.
        rules: a name of ``above_0``, ``at_least_0``, ``at_least_1``, ``share`` ([0, 1]) or
            ``below_1`` ([0, 1)) with the attributes that must be so, parted by spaces; or the name
            of an attribute with the values that may be chosen.

    Raises:
        ConfigError: naming the first value that breaks a rule, and the rule.
    """
    for rule, wanted in rules.items():
        if not isinstance(wanted, str):
            choose(f"{where}{rule}", getattr(config, rule), dict.fromkeys(wanted))
            continue
        words, holds = _RULES[rule]
        for name in wanted.split():
            value = getattr(config, name)
            values = value if isinstance(value, tuple) else (value,)
            if not all(v is None or holds(v) for v in values):
                raise ConfigError(f"{where}{name} {words}, not {value}")
