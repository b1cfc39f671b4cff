"""Check a name before anything is read, and offer the nearest ones if it is unknown."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping


def check_name(kind: str, name: str, known: Iterable[str] | Mapping[str, str]) -> None:
    """Raise a `ValueError` that offers the nearest of `known` (a mapping also matches by what it says)."""
    names = dict(known) if isinstance(known, Mapping) else dict.fromkeys(known, "")
    if name in names:
        return
    folded = {key.casefold(): key for key in names}
    near = [folded[match] for match in difflib.get_close_matches(name.casefold(), folded, n=4, cutoff=0.6)]
    said = {label.casefold(): key for key, label in names.items() if label}
    near += [said[match] for match in difflib.get_close_matches(name.casefold(), said, n=4, cutoff=0.6)]
    offered = [f"{key!r}" + (f" ({names[key]})" if names[key] else "") for key in dict.fromkeys(near)]
    hint = f"did you mean {' or '.join(offered)}?" if offered else f"there are {len(names)}, e.g. {next(iter(names))!r}"
    raise ValueError(f"unknown {kind} {name!r}; {hint}")
