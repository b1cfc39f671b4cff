"""What attribution returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd
from jaxtyping import Float, Int
from torch import Tensor

from kntools.prompts import Prompt
from kntools.results.result import Result
from kntools.sites import Neuron

if TYPE_CHECKING:
    from plotly.graph_objects import Figure


@dataclass(frozen=True, eq=False, repr=False)
class Attribution(Result):
    """Scores of all neurons for some prompts. Neurons and layers are counted from zero.

    ```python
    att.top(3)                        # (L29.N393, L28.N79, L0.N605)
    kn.ablate_neurons(att.top(20))    # ... goes straight into hooks
    att.to_frame(top=100)             # tidy pandas table
    att.save("canada.safetensors"); kn.load("canada.safetensors")
    ```
    """

    scores: Float[Tensor, "prompt layer neuron"]
    residual: Float[Tensor, "prompt layer"]  # sum of scores - gap: 0 where the rule is complete
    gap: Float[Tensor, "prompt layer"]  # P(w) - P(0): what the layer does for the answer
    probability: Float[Tensor, " prompt"]  # P(w) of the answer
    nodes: Int[Tensor, "prompt layer"]  # gradients that each layer took
    prompts: tuple[Prompt, ...]
    site: str
    rule: str
    provenance: dict[str, Any]

    def top(self, k: int = 10, *, prompt: int | None = None) -> tuple[Neuron, ...]:
        """The `k` neurons with the highest score: of one prompt, or of the mean over prompts."""
        scores = self._scores_of(prompt)
        if not 0 <= k <= scores.numel():
            raise ValueError(f"k={k}; there are {scores.numel()} neurons")
        width = scores.shape[1]
        return tuple(Neuron(i // width, i % width) for i in scores.flatten().topk(k).indices.tolist())

    def score_of(self, neuron: Neuron, *, prompt: int | None = None) -> float:
        """Score of one neuron, for one prompt or the mean over prompts."""
        return float(self._scores_of(prompt)[neuron.layer, neuron.index])

    def to_frame(self, top: int | None = None) -> pd.DataFrame:
        """One row per prompt and neuron: `prompt, text, target, layer, neuron, score, rank`.

        Arguments:
            top: only the leading neurons of each prompt; `None` means all of them.
        """
        parts = []
        for number, prompt in enumerate(self.prompts):
            scores = self.scores[number]
            order = scores.flatten().argsort(descending=True)[:top]
            parts.append(
                pd.DataFrame(
                    {
                        "prompt": number,
                        "text": prompt.text,
                        "target": prompt.target,
                        "layer": (order // scores.shape[1]).numpy(),
                        "neuron": (order % scores.shape[1]).numpy(),
                        "score": scores.flatten()[order].numpy(),
                        "rank": range(1, len(order) + 1),
                    }
                )
            )
        return pd.concat(parts, ignore_index=True)

    def plot(self, **options: Any) -> Figure:
        """Layers x neurons heatmap: `kntools.plots.neuron_heatmap`."""
        from kntools.plots.neurons import neuron_heatmap

        return neuron_heatmap(self, **options)

    def _scores_of(self, prompt: int | None) -> Float[Tensor, "layer neuron"]:
        if prompt is None:
            return self.scores.mean(0)
        if not -len(self.prompts) <= prompt < len(self.prompts):
            raise IndexError(f"prompt {prompt} does not exist: there are {len(self.prompts)}")
        return self.scores[prompt]

    def describe(self) -> str:
        n, layers, width = self.scores.shape
        worst = float(self.residual.abs().max())
        complete = "" if worst != worst else f", largest residual {worst:.1e}"  # scores that are no integrals have none
        return (
            f"Attribution of {layers} x {width:,} neurons for {n} prompt{'s' if n != 1 else ''} "
            f"({self.provenance['model']}, rule {self.rule}{complete})"
        )

    def preview(self) -> pd.DataFrame:
        """One row per prompt: `prompt, answer, probability, leading neurons`."""
        return pd.DataFrame(
            {
                "prompt": [repr(p.text) for p in self.prompts],
                "answer": [repr(p.target) for p in self.prompts],
                "probability": self.probability.numpy(),
                "leading neurons": [", ".join(map(repr, self.top(3, prompt=n))) for n in range(len(self.prompts))],
            }
        )
