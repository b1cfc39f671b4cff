"""Every primitive of kntools, and the plain loop that it must agree with.

primitive = PRIMITIVES["activation_patch z"]
found = primitive.call(case)                    # kntools
primitive.expected(case, found)                 # [(what, of kntools, of the plain loop), ...]
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

import kntools as kn
from scripts.architectures import plain
from scripts.architectures.build import ANSWER, FOIL, SUBJECT, Case

#: What is compared, what kntools gives, what the plain loop gives.
Compared = tuple[str, Tensor, Tensor]


@dataclass(frozen=True)
class Primitive:
    """One column of the table."""

    name: str
    call: Callable[[Case], Any]
    expected: Callable[[Case, Any], list[Compared]]
    of_neurons: bool  # a model without neurons must refuse it
    #: Further calls that must be refused, such as those about layers without neurons.
    refused: Callable[[Case], list[Callable[[], Any]]]


PRIMITIVES: dict[str, Primitive] = {}


def primitive(
    name: str,
    call: Callable[[Case], Any],
    *,
    of_neurons: bool = False,
    refused: Callable[[Case], list[Callable[[], Any]]] = lambda case: [],
) -> Callable[[Callable[[Case, Any], list[Compared]]], Callable[[Case, Any], list[Compared]]]:
    """Add a column: `call` is what kntools is asked, the decorated function is the plain loop."""

    def add(expected: Callable[[Case, Any], list[Compared]]) -> Callable[[Case, Any], list[Compared]]:
        PRIMITIVES[name] = Primitive(name, call, expected, of_neurons, refused)
        return expected

    return add


# --- what all of them ask ---------------------------------------------------------------------------

CHANGED_TO = "Rome"
BEFORE = "We had dinner at home. "


def prompt(case: Case, *, foil: str | None = None) -> kn.Prompt:
    other = None if foil is None else case.answer(foil)
    return kn.Prompt(case.text(), case.answer(), subject=SUBJECT, foil=other)


def probability(case: Case, word: str = ANSWER) -> Callable[[Tensor], Tensor]:
    token = case.token(word)
    return lambda logits: logits.softmax(-1)[token]


def contrast(case: Case) -> Callable[[Tensor], Tensor]:
    a, b = case.token(ANSWER), case.token(FOIL)
    return lambda logits: logits[a] - logits[b]


def probe(case: Case) -> list[tuple[int, int]]:
    """Some neurons of each layer that has any."""
    return [(layer, n) for layer in plain.neuron_layers(case) for n in (0, 7, 23)]


def without_neurons(case: Case) -> list[int]:
    return [layer for layer in plain.layers(case) if layer not in plain.neuron_layers(case)]


def shown(case: Case) -> list[int]:
    """The positions whose cells are compared: before the subject, at it, behind it, and the last one."""
    tokens = case.tokens()
    [at] = (tokens[0] == case.token(SUBJECT)).nonzero()[:, 0].tolist()
    return sorted({1, at, at + 1, tokens.shape[1] - 1})
