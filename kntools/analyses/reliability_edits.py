"""What a model says about one prompt, untouched and under each kind of neuron edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from kntools.editing.value_edits import erased, rewritten
from kntools.editing.weight_edits import as_hooks
from kntools.engine.sweep import sweep
from kntools.hooks.neurons import ablate_neurons, enhance_neurons
from kntools.prompts import Encoded
from kntools.sites import Hook, Neuron

#: On activations, at the answer position: suppress (0), enhance (x 2). On value rows: erase (0), values (a new answer).
EDITS = ("suppress", "enhance", "erase", "values")


@dataclass(frozen=True)
class Outcome:
    """What is said: for a pair the more probable of two tokens, for a fact the most probable of all."""

    says: int
    right: bool
    probability: float  # of the answer


def outcomes(
    model: Any, encoded: Encoded, sets: Sequence[Sequence[Neuron]], edits: Sequence[str]
) -> tuple[Outcome, list[dict[str, Outcome]]]:
    """Untouched, and for each set of neurons under every one of `edits`, in one sweep.

    Edits of value rows act as hooks, so that no weight is touched.
    """
    clean = sweep(model, encoded.tokens, [[]], pos=encoded.position)[0].float()
    runs = [_hooks(model, name, neurons, encoded, clean) for neurons in sets for name in edits]
    rows = iter(sweep(model, encoded.tokens, runs, pos=encoded.position).float())
    return _outcome(clean, encoded), [{name: _outcome(next(rows), encoded) for name in edits} for _ in sets]


def _hooks(
    model: Any, name: str, neurons: Sequence[Neuron], encoded: Encoded, clean: Float[Tensor, " d_vocab"]
) -> list[Hook]:
    if name == "suppress":
        return ablate_neurons(neurons, pos=encoded.positions)
    if name == "enhance":
        return enhance_neurons(neurons, pos=encoded.positions)
    if name == "erase":
        return as_hooks(model, erased(model, neurons)[1])
    old = encoded.target_ids[0]
    if encoded.foil_ids is not None:
        new = encoded.foil_ids[0]
    else:
        new = next(i for i in clean.topk(2).indices.tolist() if i != old)
    return as_hooks(model, rewritten(model, neurons, old, new)[1])


def _outcome(logits: Float[Tensor, " d_vocab"], encoded: Encoded) -> Outcome:
    target = encoded.target_ids[0]
    if encoded.foil_ids is None:
        says = int(logits.argmax())
    else:
        foil = encoded.foil_ids[0]
        says = target if float(logits[target]) > float(logits[foil]) else foil
    return Outcome(says, says == target, float(logits.softmax(-1)[target]))
