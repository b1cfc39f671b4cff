"""The verdict of one cell: does a primitive of kntools give what the plain loop gives, or a clear error?"""

from __future__ import annotations

import linecache
import re
import traceback
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

import kntools
from scripts.architectures import plain
from scripts.architectures.build import Case
from scripts.architectures.primitives import Compared, Primitive

Status = Literal["right", "error", "unclear", "wrong"]

#: Largest difference: absolute for values up to 1, such as probabilities; relative for larger ones.
TOLERANCE = 1e-4
# A clear error says of what it speaks (a layer, a site, a hook, the model, the prompt), and what to do instead.
_SUBJECT = re.compile(r"layer|site|hook|model|prompt|mask|norm|attention|MLP", re.IGNORECASE)
_WORDS = 8
_PACKAGE = Path(kntools.__file__).parent


@dataclass(frozen=True)
class Cell:
    """What became of one primitive on one configuration."""

    status: Status
    difference: float | None = None  # the largest one found; of a number that is right or wrong
    note: str = ""  # the error's text, or what is wrong

    def payload(self) -> dict[str, Any]:
        return asdict(self)


def judge(case: Case, primitive: Primitive) -> Cell:
    """Ask kntools, ask the plain loop, compare."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = primitive.call(case)
        except Exception as error:
            return _of_error(error)
        if primitive.of_neurons and not plain.neuron_layers(case):
            return Cell("wrong", note="a number, though no layer has neurons")
        cell = _compare(primitive.expected(case, found))
        return cell if cell.status == "wrong" else next(filter(None, map(_refusal, primitive.refused(case))), cell)


def is_clear(error: Exception) -> bool:
    """Was it raised on purpose by kntools, and does it say of what it speaks?"""
    *_, last = traceback.walk_tb(error.__traceback__)
    frame, line = last
    deliberate = linecache.getline(frame.f_code.co_filename, line).lstrip().startswith("raise ")
    ours = Path(frame.f_code.co_filename).is_relative_to(_PACKAGE)
    text = str(error)
    return ours and deliberate and bool(_SUBJECT.search(text)) and len(text.split()) >= _WORDS


def _of_error(error: Exception) -> Cell:
    return Cell("error" if is_clear(error) else "unclear", note=f"{type(error).__name__}: {error}"[:400])


def _refusal(call: Callable[[], Any]) -> Cell | None:
    """What is wrong with a call that must be refused, if anything."""
    try:
        call()
    except Exception as error:
        cell = _of_error(error)
        return None if cell.status == "error" else cell
    return Cell("wrong", note="a number for a layer that has no neurons")


def _compare(rows: list[Compared]) -> Cell:
    worst, where = 0.0, ""
    for what, found, expected in rows:
        difference = _difference(found, expected)
        if not difference <= worst:
            worst, where = difference, what
    return Cell("right", worst) if worst <= TOLERANCE else Cell("wrong", worst, where)


def _difference(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return float("inf")
    if not found.numel():
        return 0.0
    found, expected = found.detach().double(), expected.detach().double()
    size = max(1.0, float(expected.abs().max()))
    worst = float((found - expected).abs().max()) / size
    return worst if worst == worst else float("inf")
