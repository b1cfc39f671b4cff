"""The nearest names to one that does not exist: for errors that say what to type."""

import difflib
from collections.abc import Iterable, Mapping

_FEW = 10  # so many names, and fewer, are all offered


def nearest(name: str, known: Iterable[str], count: int = 4) -> list[str]:
    """Those of `known` that `name` may have been meant to be, the nearest first."""
    folded = {key.casefold(): key for key in known}
    return [folded[match] for match in difflib.get_close_matches(name.casefold(), folded, n=count, cutoff=0.6)]


def check_name(kind: str, name: str, known: Iterable[str] | Mapping[str, str]) -> None:
    """Raise a `ValueError` that offers the nearest of `known` (a mapping also matches by what it says), or all."""
    names = dict(known) if isinstance(known, Mapping) else dict.fromkeys(known, "")
    if isinstance(name, str) and name in names:
        return
    labels = {label: key for key, label in names.items() if label}
    near = dict.fromkeys([*nearest(str(name), names), *(labels[label] for label in nearest(str(name), labels))])
    offered = [f"{key!r}" + (f" ({names[key]})" if names[key] else "") for key in near]
    if offered:
        hint = f"did you mean {' or '.join(offered)}?"
    elif len(names) <= _FEW:
        hint = f"use one of {', '.join(map(repr, names))}"
    else:
        hint = f"there are {len(names)}, e.g. {next(iter(names))!r}"
    raise ValueError(f"unknown {kind} {name!r}; {hint}")
