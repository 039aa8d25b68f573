"""The state dict in what a checkpoint holds: under which key it is, and its names without what wrappers put before them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from minidat.released.errors import WeightsError
from minidat.unpickle import kind_of, quoted

KEYS = ("model", "state_dict", "module", "model_ema", "state_dict_ema", "ema")
"""Where the state dict is looked for, in this order. The last three hold averaged weights, taken where there are no others."""

WRAPPERS = ("module.", "_orig_mod.", "backbone.", "model.", "net.")
"""What is taken off names that all begin with it: DistributedDataParallel, torch.compile, detectors, training frameworks."""

COMPILED = "_orig_mod."
SHOWN = 5  # names in a message before it only counts


def find_state(path: Path, content: object, key: str | None, tensor: type) -> dict[str, Any]:
    """The dictionary of names and tensors in what was saved.

    key: where it is; None: the content itself, or the first of `KEYS` under which it is. Where something else is under the key,
    the state dict may also be one step further, as in {"ema": {"module": …}}. tensor: the class of a tensor. Raises
    WeightsError where there is none, naming the keys that are there.
    """
    if not isinstance(content, dict):
        raise WeightsError(path, f"it holds a {kind_of(content)}, not a dictionary with a state dict")
    if key is not None and key not in content:
        raise WeightsError(path, f"it has no key {key!r}; its keys are {names_of(content)}")
    trail, found = (), content
    if key is not None:
        trail, found = (key,), content[key]
    while len(trail) < 2 and isinstance(found, dict) and not _is_state(found, tensor):
        dictionaries = [k for k in KEYS if isinstance(found.get(k), dict)]
        if not dictionaries:
            break
        inner = next((k for k in dictionaries if _is_state(found[k], tensor)), dictionaries[0])
        trail, found = (*trail, inner), found[inner]
    where = " → ".join(map(repr, trail))
    if not isinstance(found, dict):
        keys = names_of(content)
        raise WeightsError(path, f"its {where} is a {kind_of(found)}, not a state dict; its keys are {keys}")
    others = [name for name, value in found.items() if not (isinstance(name, str) and isinstance(value, tensor))]
    if others and not trail:
        searched = ", ".join(map(repr, KEYS))
        reason = f"no state dict in it: none under {searched}, and of its keys, {names_of(found)}, not tensors are"
        raise WeightsError(path, f"{reason} {names_of(others)}. Say which key has it")
    if others:
        reason = f"its {where} is not a state dict, names and tensors alone: not tensors are {names_of(others)}"
        raise WeightsError(path, reason)
    return found


def _is_state(value: dict[Any, Any], tensor: type) -> bool:
    return all(isinstance(name, str) and isinstance(item, tensor) for name, item in value.items())


def without_wrappers(path: Path, state: Mapping[str, Any], *, whole: bool = False) -> dict[str, Any]:
    """The state dict with the names that the network itself gives: see `WRAPPERS`.

    "_orig_mod." is taken out anywhere, since parts may be compiled one by one. Of a detector, with names that begin with
    "backbone." and others, the backbone alone is kept, unless `whole`. Raises WeightsError where two names become one.
    """
    names = {name: name.replace(COMPILED, "") for name in state}
    while names:
        wrapper = next((w for w in WRAPPERS if all(name.startswith(w) for name in names.values())), None)
        if wrapper is None:
            break
        names = {full: name.removeprefix(wrapper) for full, name in names.items()}
    backbone = {full: name.removeprefix("backbone.") for full, name in names.items() if name.startswith("backbone.")}
    names = names if whole else backbone or names
    if len(set(names.values())) < len(names):
        twice, _ = Counter(names.values()).most_common(1)[0]
        raise WeightsError(path, f"{quoted(twice)} is in it twice, under names that differ in what wraps them")
    return {name: state[full] for full, name in names.items()}


def names_of(names: Iterable[Any]) -> str:
    """The first few names of many, as a message shows them. A key that is no string is named by its type."""
    listed = list(names)
    shown = [quoted(name) if isinstance(name, str) else f"a {kind_of(name)}" for name in listed[:SHOWN]]
    return ", ".join(shown) + (f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "") or "none"
