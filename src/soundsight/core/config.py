"""Configurations are frozen keyword-only dataclasses; this file reads, writes and compares them.

An unknown key is an error that lists the choices, at every depth; a value of the wrong kind is an
error that says what is expected.
"""

from __future__ import annotations

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
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ConfigError(
            f"unknown key {where}{unknown[0]} for {kind.__name__}; choose from "
            + ", ".join(sorted(fields))
        )
    hints = typing.get_type_hints(kind)
    kwargs: dict[str, Any] = {}
    for name, value in values.items():
        kwargs[name] = _restore(hints[name], value, f"{where}{name}.")
    missing = [
        name
        for name, field in fields.items()
        if name not in kwargs
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"missing key {where}{missing[0]} for {kind.__name__}")
    return kind(**kwargs)


def _restore(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
        origin = typing.get_origin(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return from_dict(hint, value, where)
    if origin is tuple:
        return _restore_tuple(typing.get_args(hint), value, where)
    return _restore_scalar(hint, value, where)


def _restore_tuple(inner: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _unexpected("a list", value, where)
    if len(inner) == 2 and inner[1] is Ellipsis:
        inner = (inner[0],) * len(value)
    elif len(inner) != len(value):
        raise _unexpected(f"a list of {len(inner)}", value, where)
    return tuple(
        _restore(hint, item, f"{where}{place}.")
        for place, (hint, item) in enumerate(zip(inner, value, strict=True))
    )


def _restore_scalar(hint: Any, value: Any, where: str) -> Any:
    # In Python true is a whole number, in a file of settings it is a mistake.
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float:
        try:
            result = float(value) if number else math.nan
        except OverflowError:
            result = math.inf
        if not math.isfinite(result):
            raise _unexpected("a finite number", value, where)
        return result
    if hint in _SCALARS and type(value) is not hint:
        raise _unexpected(_SCALARS[hint], value, where)
    return value


def _unexpected(what: str, value: Any, where: str) -> ConfigError:
    shown = repr(value)
    if len(shown) > _SHOWN_CHARS:
        shown = shown[:_SHOWN_CHARS] + "..."
    return ConfigError(f"{where.rstrip('.')}: {what} is expected, not {shown}")


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
    """Return ``choices[name]``.

    Raises:
        ConfigError: naming the choices when there is no such name.
    """
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
        if isinstance(wanted, str):
            words, holds = _RULES[rule]
            for name in wanted.split():
                value = getattr(config, name)
                values = value if isinstance(value, tuple) else (value,)
                if not all(v is None or holds(v) for v in values):
                    raise ConfigError(f"{where}{name} {words}, not {value}")
        elif getattr(config, rule) not in tuple(wanted):
            raise ConfigError(
                f"unknown {where}{rule} {getattr(config, rule)!r}; "
                f"choose from {', '.join(sorted(wanted))}"
            )
