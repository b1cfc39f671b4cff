"""Arguments are checked where they are read: what was given, what is possible, what to type.

Checks that need a model are in `kntools.models.adapter` and `kntools.engine.inputs`.
"""

import re
from collections import Counter
from collections.abc import Hashable, Iterable
from math import inf, isfinite
from operator import index
from typing import Any, SupportsFloat, SupportsIndex, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")
Limit = float | int | None

_HALF_OF_A_PAIR = re.compile("[\ud800-\udfff]")


def shown(value: Any) -> str:
    """A value as an error shows it: what would fill the screen, by its type."""
    text = repr(value)
    return text if len(text) <= 80 and "\n" not in text else f"<{type(value).__name__}>"


def whole(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """A whole number, also one of numpy or torch, within limits that are themselves allowed."""
    wanted = f"give a whole number{_range(least, most)}"
    try:
        number = index(value)
    except TypeError:
        raise TypeError(f"{name}={shown(value)}; {wanted}") from None
    if isinstance(value, bool):
        raise TypeError(f"{name}={value}; {wanted}")
    if (least is not None and number < least) or (most is not None and number > most):
        raise ValueError(f"{name}={number}; {wanted}")
    return number


class NoEffect(ValueError):
    """An argument that would change nothing: a mistake of the code that gives it, whatever the data."""


def without_effect(where: str, **given: Any) -> None:
    """An argument that would change nothing is an error where it is given."""
    for name, value in given.items():
        if value is not None:
            raise NoEffect(f"{name}={shown(value)} has no effect {where}; omit it")


def is_one_number(value: Any) -> bool:
    """One, and not several: arrays and tensors of several claim to be an index too."""
    # An int first: a sweep asks for thousands, and a protocol is looked up slowly.
    return isinstance(value, int) or (isinstance(value, SupportsIndex) and not getattr(value, "ndim", 0))


def whole_numbers(name: str, values: Any, least: int | None = None) -> tuple[int, ...]:
    """The same of one number or of several."""
    if is_one_number(values):
        return (whole(name, values, least),)
    return tuple(whole(name, value, least) for value in several(name, values, "[2, 3], or one whole number"))


def decimal(
    name: str, value: Any, least: Limit = None, most: Limit = None, *, above: Limit = None, below: Limit = None
) -> float:
    """A finite number within limits: `least` and `most` are allowed themselves, `above` and `below` are not."""
    wanted = f"give a number{_range(least, most, above, below)}"
    if isinstance(value, bool | str) or not isinstance(value, SupportsFloat):
        raise TypeError(f"{name}={shown(value)}; {wanted}")
    try:
        number = float(value)
    except (TypeError, ValueError, RuntimeError):  # a tensor of several
        raise TypeError(f"{name}={shown(value)}; {wanted}") from None
    low, high = (-inf if least is None else least), (inf if most is None else most)
    inside = low <= number <= high and isfinite(number)
    if not inside or (above is not None and number <= above) or (below is not None and number >= below):
        raise ValueError(f"{name}={shown(value)}; {wanted}")
    return number


def flag(name: str, value: Any, *others: Any) -> Any:
    """True or False, or one of the others; a text that says "no" is neither."""
    if not isinstance(value, bool | np.bool_) and not any(value is other for other in others):
        raise TypeError(f"{name}={shown(value)}; give {' or '.join(map(repr, (True, False, *others)))}")
    return value


def _range(least: object, most: object, above: object = None, below: object = None) -> str:
    if least is not None and most is not None:
        return f" from {least} to {most}"
    limits = {"at least": least, "above": above, "at most": most, "below": below}
    given = [f"{word} {limit}" for word, limit in limits.items() if limit is not None]
    return f" {' and '.join(given)}" if given else ""


def whole_text(name: str, value: str) -> str:
    """A text without half of a surrogate pair, which no tokenizer and no file can hold."""
    if lone := _HALF_OF_A_PAIR.search(value):
        raise ValueError(
            f"character {lone.start()} of {name} is half of a surrogate pair, which is not valid text; leave it out, "
            "or read the text with errors='replace'"
        )
    return value


def several(name: str, value: Any, example: str) -> list[Any]:
    """The entries of a list, a range or anything else that can be gone through, but a text."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise TypeError(f"{name}={shown(value)}; give several, e.g. {example}")
    return list(value)


def check_distinct(name: str, values: Iterable[Hashable]) -> None:
    """What is given twice would count twice, as if it were further evidence: an error."""
    for value, times in Counter(values).items():
        if times > 1:
            raise ValueError(f"{name} {shown(value)} is given {times} times and would count as often; give it once")


#: What a list of prompts looks like, for errors.
PROMPTS = "[kn.Prompt('The capital of Canada is', ' Ottawa'), ...]"


def check_list(name: str, items: Any, kind: type, example: str, *, least: int = 1) -> None:
    """Are these so many things of a kind, that can be gone through again and again?"""
    if not hasattr(items, "__len__") or not all(isinstance(item, kind) for item in several(name, items, example)):
        raise TypeError(f"{name}={shown(items)}; give several, as in {example}")
    if len(items) < least:
        raise ValueError(f"no {name} given; give at least one, as in {example}")


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
