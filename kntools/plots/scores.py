"""What figures are drawn from: results, by their fields alone, or plain tensors."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from kntools.metrics import UNITS
from kntools.sites import Neuron, as_neurons


@dataclass(frozen=True)
class Scores:
    """Scores to draw, and what there is to say about them."""

    each: np.ndarray  # [prompt layer neuron]
    chosen: np.ndarray  # [layer neuron]: one prompt's, or the mean over prompts
    exists: np.ndarray  # [layer neuron]: False where a layer has fewer neurons than another
    what: str  # of which prompts
    unit: str  # "score", with what it is in

    @property
    def ranks(self) -> np.ndarray:
        """1 for the highest score of all; equal scores in the order of `Attribution.top`."""
        scores = pd.Series(np.where(self.exists, self.chosen, -np.inf).ravel())
        return scores.rank(method="first", ascending=False).to_numpy(int).reshape(self.chosen.shape)


def read_scores(given: Any, prompt: int | None = None) -> Scores:
    """Scores of an `Attribution`, or of a tensor or array `[prompt layer neuron]`; `None`: mean over prompts."""
    raw = getattr(given, "scores", given)
    if not isinstance(raw, (Tensor, np.ndarray)):
        raise ValueError(f"cannot draw {type(given).__name__}; give an Attribution or scores [prompt layer neuron]")
    if raw.ndim != 3 or 0 in raw.shape:
        raise ValueError(f"scores must be [prompt layer neuron], not {tuple(raw.shape)}; for one prompt, scores[None]")
    tensor = torch.as_tensor(finite(raw, "scores"))
    # As `Attribution.top` sees them: the mean in the scores' own precision.
    count = len(tensor)
    if prompt is not None and not -count <= prompt < count:
        raise IndexError(f"prompt {prompt} does not exist: there are {count} (0 to {count - 1})")
    chosen = tensor.mean(0) if prompt is None else tensor[prompt]
    what = _describe(getattr(given, "prompts", ()), prompt, count)
    widths = np.array(getattr(given, "widths", raw.shape[1] * [raw.shape[2]]))
    exists = np.arange(raw.shape[2]) < widths[:, None]
    return Scores(tensor.numpy(), chosen.numpy(), exists, what, score_title(given))


def score_title(given: Any) -> str:
    """`score (probability)`: with what the scores of an `Attribution` are in; those of a tensor may be anything."""
    metric = getattr(given, "metric", None)
    what = "difference of scores" if getattr(given, "subtracted", ()) else "score"
    return what if metric is None else f"{what} ({UNITS.get(metric, metric)})"


def _describe(prompts: Sequence[Any], prompt: int | None, count: int) -> str:
    if prompts and (prompt is not None or count == 1):
        chosen = prompts[prompt or 0]
        return f"{chosen.text} → {chosen.target.strip()}"
    if prompt is not None:
        return f"prompt {prompt % count}"
    several = f"mean of {count} prompts" if count > 1 else "one prompt"
    targets = {p.target.strip() for p in prompts}
    return f"{several} → {targets.pop()}" if len(targets) == 1 else several


def read_neurons(given: Any) -> list[Neuron]:
    """Neurons of a `KnowledgeNeurons`, or `Neuron`s and `(layer, index)` pairs; repetitions stay."""
    if isinstance(given, Neuron):
        return [given]
    found = getattr(given, "neurons", given)
    if isinstance(found, (str, Tensor)) or not isinstance(found, Iterable):
        raise ValueError(f"cannot read neurons from {type(given).__name__}; give KnowledgeNeurons or a list of Neuron")
    return [as_neurons([n])[0] for n in found]


def finite(values: Any, what: str, shape: Sequence[int | None] | None = None, *, gaps: bool = False) -> np.ndarray:
    """Values on the CPU, in at least single precision; `shape` is what they must have, `None` for any size.

    With `gaps` some may be nan.
    """
    try:
        tensor = _stacked(values).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{what} must be a tensor, an array or lists of equally many numbers ({error})") from error
    if not tensor.is_floating_point() or tensor.itemsize < 4:
        tensor = tensor.float()
    if shape is not None and (
        tensor.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, tensor.shape, strict=True))
    ):
        wanted = " x ".join("any" if n is None else str(n) for n in shape)
        hint = "; for one row, values[None]" if tensor.ndim == 1 and len(shape) == 2 else ""
        raise ValueError(f"{what} must have the shape {wanted}, one per label, not {tuple(tensor.shape)}{hint}")
    if not bool((tensor.isfinite() | (tensor.isnan() & gaps)).all()):
        raise ValueError(f"{what} hold nan or inf, which cannot be drawn")
    return tensor.numpy()


def _stacked(values: Any) -> Tensor:
    return (
        torch.stack([_stacked(row) for row in values]) if isinstance(values, list | tuple) else torch.as_tensor(values)
    )
