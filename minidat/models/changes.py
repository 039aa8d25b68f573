"""A configuration changed by words, as the command line writes them: `stages.2.range_factor=4`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NoReturn, get_args, get_type_hints

from minidat.attention import Offsets
from minidat.models.config import Config, StageConfig

OWN_FLAGS = {"classes": "the data has them", "drop_path": "it is a setting of its own, --drop-path"}
READERS: dict[Any, tuple[Callable[[str], Any], str]] = {
    bool: ({"true": True, "false": False}.__getitem__, "true or false"),
    int: (int, "a whole number"),
    float: (float, "a number"),
    str: (str, "text"),
}
OF_CONFIG = {name: hint for name, hint in get_type_hints(Config).items() if name not in {"stages", *OWN_FLAGS}}
OF_STAGE = get_type_hints(StageConfig) | get_type_hints(Offsets)
del OF_STAGE["offsets"]  # its options are named themselves


def changed(config: Config, changes: Sequence[str]) -> Config:
    """The configuration with each of `changes`, "NAME=VALUE", in it. NAME is one of

    `patch`            an option of `Config`;
    `stages`           how many stages are kept, the first ones;
    `stages.2.heads`   an option of `StageConfig` or of its `Offsets` in one stage, counted from 0;
    `stages.heads`     the same in every stage; VALUE may then list a value for each, separated by commas.

    Mixers are written as letters: `stages.mixers=LS,LD,LD`. Raises ValueError that begins with the change for a name that is
    unknown, a value of another type or out of range, and a name that is given twice.
    """
    of_config: dict[str, Any] = {}
    named: dict[str, str] = {}
    for change in changes:
        name, equals, value = change.partition("=")
        if not equals or not value:
            raise ValueError(f"{change!r} changes nothing; write NAME=VALUE, such as stages.2.range_factor=4")
        if name in named:
            raise ValueError(f"{change}: {name} is given twice, as {named[name]} too")
        named[name] = value
    stages = _stages(config.stages, named)
    for name, value in named.items():
        if name != "stages" and not name.startswith("stages."):
            of_config[name] = _value(OF_CONFIG.get(name) or _unknown(name, value, OF_CONFIG), value, f"{name}={value}")
    return _told(lambda: replace(config, stages=stages, **of_config), changes)


def _stages(stages: tuple[StageConfig, ...], named: dict[str, str]) -> tuple[StageConfig, ...]:
    """The stages with the changes that concern them; those to one stage win over those to all."""
    if "stages" in named:
        stages = stages[: _count(named["stages"], len(stages))]
    options: list[dict[str, Any]] = [{} for _ in stages]
    texts: list[list[str]] = [[] for _ in stages]
    own = {name for name in named if name.count(".") == 2}
    for name in sorted((n for n in named if n.startswith("stages.")), key=own.__contains__):
        text, option = f"{name}={named[name]}", name.rpartition(".")[2]
        if name.count(".") > 2:
            raise ValueError(
                f"{text}: {name} has too many dots; write stages.{option}, or stages.0.{option} for one stage"
            )
        chosen = [_index(name, text, len(stages))] if name in own else range(len(stages))
        hint = OF_STAGE.get(option) or _unknown(name, named[name], OF_STAGE)
        for i, value in zip(chosen, _values(named[name], text, len(chosen), several=name not in own)):
            options[i][option] = _value(hint, value, text)
            texts[i].append(text)
    return tuple(_told(lambda s=s, o=o: s.changed(**o), t) for s, o, t in zip(stages, options, texts))


def _count(value: str, most: int) -> int:
    if not value.isascii() or not value.isdigit() or not 1 <= int(value) <= most:
        raise ValueError(f"stages={value}: the network has {most} stages, of which 1 to {most} can be kept")
    return int(value)


def _index(name: str, text: str, count: int) -> int:
    place = name.split(".")[1]
    if place not in map(str, range(count)):
        raise ValueError(f"{text}: there is no stage {place!r}; this network has stages.0 to stages.{count - 1}")
    return int(place)


def _values(value: str, text: str, count: int, *, several: bool) -> list[str]:
    """A value for each of `count` stages."""
    listed = value.split(",") if several else [value]
    if len(listed) not in (1, count):
        raise ValueError(f"{text}: {len(listed)} values for {count} stages; give one, or one for each")
    return listed * (count // len(listed))


def _value(hint: Any, text: str, change: str) -> Any:
    """The value that a text stands for, of the type that the option declares."""
    if type(None) in get_args(hint):
        if text == "none":
            return None
        (hint,) = set(get_args(hint)) - {type(None)}
    read, rule = READERS.get(hint, (tuple, "letters"))  # the only tuple: mixers, a letter for each block
    try:
        return read(text)
    except (KeyError, ValueError):
        raise ValueError(f"{change}: the value must be {rule}") from None


def _unknown(name: str, value: str, known: dict[str, Any]) -> NoReturn:
    """Raise ValueError that names what was meant, or all that is known."""
    prefix, dot, option = name.rpartition(".")
    if name in OWN_FLAGS:
        raise ValueError(f"{name}={value}: {name} is not changed here; {OWN_FLAGS[name]}")
    if known is OF_CONFIG:  # its options have no prefix
        prefix = dot = ""
    near = [prefix + dot + word for word in difflib.get_close_matches(option, known, n=3, cutoff=0.6)]
    if not near and not dot and option in OF_STAGE:
        near = [f"stages.{option}"]
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
    raise ValueError(f"{name}={value}: {name} is unknown; {hint}")


def _told(make: Callable[[], Any], changes: Sequence[str]) -> Any:
    """What `make` makes. Its ValueError names the changes that led to it."""
    try:
        return make()
    except ValueError as error:
        raise ValueError(f"{' '.join(changes)}: {error}") from None
