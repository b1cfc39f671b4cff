"""What a model says about one prompt, untouched and under each kind of neuron edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kntools import backends
from kntools.hooks import ablate_neurons, enhance_neurons
from kntools.prompts import Encoded
from kntools.sites import Neuron
from kntools.sweep import sweep
from kntools.value_edits import edit_values, erase_values
from kntools.weight_edits import WeightEdit

#: On activations, at the answer position: suppress (0), enhance (x 2). On value rows: erase (0), values (a new answer).
EDITS = ("suppress", "enhance", "erase", "values")


@dataclass(frozen=True)
class Outcome:
    """What is said: for a pair the more probable of two tokens, for a fact the most probable of all."""

    says: int
    right: bool
    probability: float  # of the answer


def outcomes(
    model: Any, encoded: Encoded, neurons: Sequence[Neuron], edits: Sequence[str]
) -> tuple[Outcome, dict[str, Outcome]]:
    """Untouched, and under every one of `edits`. Value rows are restored bit for bit."""
    hooks = {"suppress": ablate_neurons, "enhance": enhance_neurons}
    on_activations = [name for name in edits if name in hooks]
    runs = [[], *(hooks[name](neurons, pos=encoded.positions) for name in on_activations)]
    first = sweep(model, encoded.tokens, runs, pos=encoded.position)
    clean = first[0].float()
    before = _outcome(clean, encoded)
    found = {name: _outcome(row, encoded) for name, row in zip(on_activations, first[1:].float(), strict=True)}
    for name in edits:
        if name not in hooks:
            with _weights(model, name, neurons, encoded, clean).applied(model), torch.no_grad():
                found[name] = _outcome(backends.run(model, encoded.tokens)[0, encoded.position].float(), encoded)
    return before, found


def _weights(
    model: Any, name: str, neurons: Sequence[Neuron], encoded: Encoded, clean: Float[Tensor, " d_vocab"]
) -> WeightEdit:
    if name == "erase":
        return erase_values(model, neurons)
    old = encoded.target_ids[0]
    if encoded.foil_ids is not None:
        new = encoded.foil_ids[0]
    else:
        new = next(i for i in clean.topk(2).indices.tolist() if i != old)
    return edit_values(model, neurons, old, new)


def _outcome(logits: Float[Tensor, " d_vocab"], encoded: Encoded) -> Outcome:
    target = encoded.target_ids[0]
    if encoded.foil_ids is None:
        says = int(logits.argmax())
    else:
        foil = encoded.foil_ids[0]
        says = target if float(logits[target]) > float(logits[foil]) else foil
    return Outcome(says, says == target, float(logits.softmax(-1)[target]))
