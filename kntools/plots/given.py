"""What figures are drawn from: results, by their fields alone, or plain tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kntools.sites import Neuron, as_neurons

# Names of rules whose scores are no probabilities.
_UNITS = {"activation": "activation"}


@dataclass(frozen=True)
class Given:
    """Scores to draw, and what there is to say about them."""

    each: np.ndarray  # [prompt layer neuron]
    chosen: np.ndarray  # [layer neuron]: one prompt's, or the mean over prompts
    what: str  # of which prompts
    unit: str

    @property
    def layers(self) -> int:
        return int(self.chosen.shape[0])

    @property
    def width(self) -> int:
        return int(self.chosen.shape[1])

    @property
    def ranks(self) -> np.ndarray:
        """1 for the highest score of all; equal scores in the order of `Attribution.top`."""
        order = torch.as_tensor(self.chosen).flatten().argsort(descending=True, stable=True).numpy()
        ranks = np.empty(order.size, dtype=np.int64)
        ranks[order] = np.arange(1, order.size + 1)
        return ranks.reshape(self.chosen.shape)


def read_scores(given: Any, prompt: int | None = None) -> Given:
    """Scores of an `Attribution`, or of a plain tensor or array `[prompt layer neuron]`.

    Arguments:
        prompt: which one; `None` is the mean over prompts.

    Raises:
        ValueError, IndexError: no such scores; scores that are not finite; no such prompt.
    """
    raw = getattr(given, "scores", given)
    if not isinstance(raw, (Tensor, np.ndarray)):
        raise ValueError(f"cannot draw {type(given).__name__}; give an Attribution or scores [prompt layer neuron]")
    tensor = torch.as_tensor(raw).detach().cpu()
    if tensor.ndim != 3 or 0 in tensor.shape:
        raise ValueError(
            f"scores must be [prompt layer neuron], not {tuple(tensor.shape)}; for one prompt, scores[None]"
        )
    # As `Attribution.top` sees them: the mean in the scores' own precision.
    each = tensor.float() if not tensor.is_floating_point() or tensor.itemsize < 4 else tensor
    if not bool(torch.isfinite(each).all()):
        raise ValueError("the scores hold nan or inf, which cannot be drawn")
    count = each.shape[0]
    if prompt is not None and not -count <= prompt < count:
        raise IndexError(f"prompt {prompt} does not exist: there are {count} (0 to {count - 1})")
    chosen = each.mean(0) if prompt is None else each[prompt]
    rule = getattr(given, "rule", None)
    unit = "" if rule is None else _UNITS.get(rule, "probability")
    return Given(each.numpy(), chosen.numpy(), _describe(getattr(given, "prompts", ()), prompt, count), unit)


def _describe(prompts: Sequence[Any], prompt: int | None, count: int) -> str:
    if prompts and (prompt is not None or count == 1):
        one = prompts[prompt or 0]
        return f"{one.text} →{_spaced(one.target)}"
    if prompt is not None:
        return f"prompt {prompt % count}"
    of_several = f"mean of {count} prompts" if count > 1 else "one prompt"
    targets = {p.target for p in prompts}
    return f"{of_several} →{_spaced(targets.pop())}" if len(targets) == 1 else of_several


def _spaced(target: str) -> str:
    return target if target.startswith(" ") else " " + target


def label(quantity: str, unit: str) -> str:
    """An axis label with its unit."""
    return f"{quantity} ({unit})" if unit else quantity


def read_neurons(given: Any) -> list[Neuron]:
    """Neurons of a `KnowledgeNeurons`, or `Neuron`s and `(layer, index)` pairs; repetitions stay."""
    if isinstance(given, Neuron):
        return [given]
    found = getattr(given, "neurons", given)
    if isinstance(found, (str, Tensor)) or not isinstance(found, Iterable):
        raise ValueError(f"cannot read neurons from {type(given).__name__}; give KnowledgeNeurons or a list of Neuron")
    return [as_neurons([n])[0] for n in found]
