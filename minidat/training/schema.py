"""Values from files and users, checked against the types that a dataclass declares for its fields.

A JSON number without a fraction is an int and also a float; true and false are no numbers; a float is finite, and an int
fits 64 bits. A JSON list becomes the tuple that is declared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")
WORDS = {
    bool: "true or false",
    int: "a whole number below 2^63",
    float: "a finite number",
    str: "text",
    tuple: "a list",
    dict: "an object",
    NoneType: "null",
}


def build(kind: type[T], values: Any, name: str) -> T:
    """An instance of the dataclass `kind` from a mapping, nested ones too. Values of other names are left out. Raises
    ValueError, naming the field, for one that is missing without a default or has another type."""
    if not isinstance(values, Mapping):
        raise _wrong(name, values, dict)
    hints, found = get_type_hints(kind), {}
    for field in fields(kind):  # ty: ignore[invalid-argument-type]
        if field.name in values:
            found[field.name] = convert(hints[field.name], values[field.name], f"{name}.{field.name}")
        elif field.default is MISSING and field.default_factory is MISSING:
            raise ValueError(f"{name}.{field.name} is missing")
    return kind(**found)


def check(instance: Any) -> None:
    """Raise ValueError, naming the field, where a field of a dataclass has a value of another type than declared."""
    for name, hint in get_type_hints(type(instance)).items():
        convert(hint, getattr(instance, name), name)


def convert(hint: Any, value: Any, name: str) -> Any:
    """The value as the type `hint` has it. Raises ValueError, with `name`, where it has another type."""
    if hint is Any:
        return value
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is UnionType:
        (inner,) = (argument for argument in arguments if argument is not NoneType)
        return None if value is None else convert(inner, value, name)
    if is_dataclass(hint):
        return value if isinstance(value, hint) else build(hint, value, name)
    if origin in (tuple, Sequence):
        return _tuple(arguments if origin is tuple else (*arguments, ...), value, name)
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(name, value, dict)
        return {convert(str, key, f"a key of {name}"): convert(arguments[1], item, name) for key, item in value.items()}
    if not _is(hint, value):
        raise _wrong(name, value, hint)
    return value


def _tuple(arguments: tuple[Any, ...], value: Any, name: str) -> tuple[Any, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong(name, value, tuple)
    if arguments[-1] is Ellipsis:
        arguments = arguments[:1] * len(value)
    if len(arguments) != len(value):
        raise ValueError(f"{name} has {len(value)} entries; it must have {len(arguments)}")
    return tuple(convert(hint, item, f"{name}[{i}]") for i, (hint, item) in enumerate(zip(arguments, value)))


def _is(hint: type, value: Any) -> bool:
    if isinstance(value, bool):
        return hint is bool
    if hint is int:
        return isinstance(value, int) and abs(value) < 2**63
    if hint is float:
        return _is(int, value) or (isinstance(value, float) and math.isfinite(value))
    return isinstance(value, hint)


def _wrong(name: str, value: Any, hint: type) -> ValueError:
    shown = repr(value) if isinstance(value, str | float | int | NoneType) else type(value).__name__
    return ValueError(f"{name} is {shown[:60]}; it must be {WORDS.get(hint, hint.__name__)}")
