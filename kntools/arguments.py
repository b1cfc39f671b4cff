"""Arguments are checked where they are read: what was given, what is possible, what to type.

These checks know no model; those that do stand in `kntools.models.adapter` and `kntools.engine.inputs`.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import index
from typing import Any, SupportsFloat, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")


def shown(value: Any) -> str:
    """A value as an error shows it: what would fill the screen, by its type."""
    text = repr(value)
    return text if len(text) <= 80 and "\n" not in text else f"<{type(value).__name__}>"


def whole(name: str, value: Any, least: int | None = None) -> int:
    """A whole number, also one of numpy or torch."""
    bound = "" if least is None else f", at least {least}"
    try:
        number = index(value)
    except TypeError:
        raise TypeError(f"{name}={shown(value)}; give a whole number{bound}") from None
    if least is not None and number < least:
        raise ValueError(f"{name}={number}; give at least {least}")
    return number


def real(name: str, value: Any) -> float:
    """A number; of which size, the caller says."""
    if isinstance(value, str) or not isinstance(value, SupportsFloat):
        raise TypeError(f"{name}={shown(value)}; give a number")
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):  # a tensor of several
        raise TypeError(f"{name}={shown(value)}; give one number") from None


def several(name: str, value: Any, example: str) -> list[Any]:
    """The entries of a list, a range or anything else that can be gone through, but a text."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{name}={shown(value)}; give several, e.g. {example}")
    return list(value)


def tensor(name: str, value: Any, axes: str, *, finite: bool = True) -> Tensor:
    """A tensor of numbers, also from an array or a list (float64); `axes` says which, e.g. `"[d_model]"`."""
    try:
        found = value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name}={shown(value)}; give a tensor {axes}") from None
    if finite and not bool(torch.isfinite(found).all()):
        raise ValueError(f"{name} holds nan or inf")
    return found


def instance(name: str, value: T, kind: type | tuple[type, ...], example: str) -> T:
    """A value of a kind that only kntools makes; `example` makes one."""
    if not isinstance(value, kind):
        raise TypeError(f"{name}={shown(value)}; give what {example} returns")
    return value
