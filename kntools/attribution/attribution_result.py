"""What attribution returns."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from kntools.arguments import whole
from kntools.prompts import Prompt
from kntools.results.display import excerpt
from kntools.results.result import Figure, Result
from kntools.sites import Neuron, NeuronLike, as_neuron

# What has an entry per prompt.
_BY_PROMPT = ("scores", "residual", "gap", "nodes", "value", "probability", "floor", "prompts")


@dataclass(frozen=True, eq=False, repr=False)
class Attribution(Result):
    """Scores of all neurons for some prompts. Neurons and layers are counted from zero.

    ```python
    att.top(3)                        # (L24.N1005, L23.N298, L0.N1297)
    kn.ablate_neurons(att.top(20))    # ... goes straight into hooks
    att.to_frame(top=100)             # tidy pandas table
    att.save("canada.safetensors"); kn.load("canada.safetensors")
    (att - other).top(3)              # what differs, e.g. from a model that was edited, or from another rule
    att.plot_against(other)           # a dot per neuron
    ```
    """

    scores: Float[Tensor, "prompt layer neuron"]
    residual: Float[Tensor, "prompt layer"]  # sum of scores - gap: 0 where the rule is complete
    gap: Float[Tensor, "prompt layer"]  # m(w) - m(0): what the layer does for the metric
    probability: Float[Tensor, " prompt"]  # of the answer
    nodes: Int[Tensor, "prompt layer"]  # gradients that each layer took
    prompts: tuple[Prompt, ...]
    site: str
    rule: str
    provenance: dict[str, Any]
    widths: tuple[int, ...] = ()  # neurons of each layer; scores beyond are 0, and of no neuron
    metric: str = "probability"  # what is attributed, and what scores are in: "probability", "contrast", ...
    value: Float[Tensor, " prompt"] | None = None  # m(w): the metric of the run as it is
    floor: Float[Tensor, "prompt layer"] | None = None  # of a residual, by rounding; 0 for fixed rules
    post_norm: str | None = None  # a norm behind the MLP: "frozen" or "live"; None where there is none
    subtracted: tuple[dict[str, Any], ...] = ()  # of a difference: the provenance of each attribution taken away

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.widths:
            object.__setattr__(self, "widths", (self.scores.shape[2],) * self.scores.shape[1])

    def __getitem__(self, which: int | slice) -> "Attribution":
        """That of one of the prompts, or of some: `att[0]`, `att[2:5]`."""
        count = len(self.prompts)
        if isinstance(which, slice):
            rows = which
        elif -count <= (n := whole("prompt", which)) < count:
            rows = slice(n % count, n % count + 1)
        else:
            raise IndexError(f"prompt {n} does not exist: the attribution has {count}")
        own = {name: value[rows] for name, value in vars(self).items() if name in _BY_PROMPT and value is not None}
        return replace(self, **own)

    def top(self, k: int = 10, *, prompt: int | None = None) -> tuple[Neuron, ...]:
        """The `k` neurons with the highest score: of one prompt, or of the mean over prompts."""
        return leading(of_prompt(self.scores, prompt), k, self.widths)

    def score_of(self, neuron: NeuronLike, *, prompt: int | None = None) -> float:
        """Score of one neuron, for one prompt or the mean over prompts."""
        neuron = as_neuron(neuron)
        if neuron.layer >= len(self.widths) or neuron.index >= self.widths[neuron.layer]:
            raise IndexError(f"neuron {neuron} does not exist: the layers have {self.widths} neurons")
        return float(of_prompt(self.scores, prompt)[neuron.layer, neuron.index])

    def to_frame(self, top: int | None = None) -> pd.DataFrame:
        """One row per prompt and neuron: `prompt, text, target, layer, neuron, score, rank, metric`.

        Arguments:
            top: only the leading neurons of each prompt; `None` means all of them.
        """
        parts, top = [], None if top is None else whole("top", top, least=0)
        for number, prompt in enumerate(self.prompts):
            scores = self.scores[number]
            order = _only_neurons(scores, self.widths).flatten().argsort(descending=True)[: sum(self.widths)][:top]
            columns = {
                "prompt": number,
                "text": prompt.text,
                "target": prompt.target,
                "layer": (order // scores.shape[1]).numpy(),
                "neuron": (order % scores.shape[1]).numpy(),
                "score": scores.flatten()[order].numpy(),
                "rank": range(1, len(order) + 1),
                "metric": self.metric,
            }
            parts.append(pd.DataFrame(columns))
        return pd.concat(parts, ignore_index=True)

    def plot(self, **options: Any) -> Figure:
        """Layers x neurons heatmap: `kntools.plots.neuron_heatmap`."""
        from kntools.plots.neurons import neuron_heatmap

        return neuron_heatmap(self, **options)

    def plot_against(self, other: "Attribution", **options: Any) -> Figure:
        """Scores of the same prompts in two attributions, a dot per neuron: `kntools.plots.score_scatter`."""
        from kntools.plots.scatters import score_scatter

        self._check_comparable(other)
        return score_scatter(self, other, **options)

    def __sub__(self, other: "Attribution") -> "Attribution":
        """Differences of everything measured; scores still sum to the gap."""
        if not isinstance(other, Attribution):
            return NotImplemented
        self._check_comparable(other)
        for own, given in ((self.metric, other.metric), (self.site, other.site)):
            if own != given:
                raise ValueError(f"scores of {own} and of {given} have no difference; a.plot_against(b) compares them")
        if other.subtracted:
            raise ValueError("the right side is itself a difference; write a - b - c")
        return replace(
            self,
            scores=self.scores - other.scores,
            residual=self.residual - other.residual,
            gap=self.gap - other.gap,
            probability=self.probability - other.probability,
            nodes=self.nodes + other.nodes,
            value=None if self.value is None or other.value is None else self.value - other.value,
            floor=None if self.floor is None or other.floor is None else self.floor + other.floor,
            subtracted=(*self.subtracted, other.provenance),
        )

    def _check_comparable(self, other: "Attribution") -> None:
        if not isinstance(other, Attribution):
            raise TypeError(f"an attribution is compared with another one, not with {type(other).__name__}")
        if self.prompts != other.prompts:
            texts = " and ".join(str([excerpt(p.text) for p in att.prompts[:3]]) for att in (self, other))
            raise ValueError(f"the attributions are of different prompts: {texts}; attribute the same ones")
        bos = [att.provenance["settings"].get("prepend_bos") for att in (self, other)]
        if bos[0] != bos[1]:
            raise ValueError(
                f"prepend_bos is {bos[0]} in one attribution and {bos[1]} in the other, so their tokens differ; "
                "attribute kn.encode(model, prompt, prepend_bos=...) in both"
            )
        if self.widths != other.widths:
            raise ValueError(f"the layers have {self.widths} and {other.widths} neurons; compare models of one shape")

    def describe(self) -> str:
        n, layers = len(self.prompts), [str(layer) for layer, width in enumerate(self.widths) if width]
        alike = len(set(self.widths)) == 1
        what = f"{len(layers)} x {self.widths[0]:,} neurons" if alike else f"{sum(self.widths):,} neurons"
        where = "" if len(layers) == len(self.widths) else f" of layer {', '.join(layers)} (others have none)"
        worst = float(self.residual.abs().max())
        complete = "" if worst != worst else f", largest residual {worst:.1e}"  # scores that are no integrals have none
        held = f", post norm {self.post_norm}" if self.post_norm else ""
        made = f"{self.provenance['model']}, rule {self.rule}"
        made += "".join(f" minus {p['model']}, rule {p['settings']['rule']}" for p in self.subtracted)
        kind = "Difference of attributions" if self.subtracted else "Attribution"
        return f"{kind} of {what}{where} for {n} prompt{'s' if n != 1 else ''} ({made}, {self.metric}{held}{complete})"

    def preview(self) -> pd.DataFrame:
        """One row per prompt: `prompt, answer, probability`, the metric's value if it is another, `leading neurons`."""
        of = "difference of " if self.subtracted else ""
        values = {"probability": self.probability, **({} if self.value is None else {self.metric: self.value})}
        return pd.DataFrame(
            {
                "prompt": [repr(p.text) for p in self.prompts],
                "answer": [repr(p.target) for p in self.prompts],
                **{of + name: value.numpy() for name, value in values.items()},
                "leading neurons": [", ".join(map(repr, self.top(3, prompt=n))) for n in range(len(self.prompts))],
            }
        )


def of_prompt(values: Float[Tensor, "prompt ..."], prompt: int | None) -> Float[Tensor, "..."]:
    """The values of one prompt, or their mean over prompts."""
    if prompt is None:
        return values.mean(0)
    number = whole("prompt", prompt)
    if not -len(values) <= number < len(values):
        raise IndexError(f"prompt {prompt} does not exist: there are {len(values)}")
    return values[number]


def leading(scores: Float[Tensor, "layer neuron"], k: int, widths: Sequence[int]) -> tuple[Neuron, ...]:
    """The `k` neurons with the highest score; layer l has `widths[l]` of them."""
    count = whole("k", k, least=0)
    if count > sum(widths):
        raise ValueError(f"k={count}; there are {sum(widths)} neurons")
    best = _only_neurons(scores, widths).flatten().topk(count).indices.tolist()
    return tuple(Neuron(*divmod(i, scores.shape[1])) for i in best)


def exists(widths: Sequence[int]) -> Bool[Tensor, "layer neuron"]:
    """Which entries of scores `[layer neuron]` are neurons."""
    return torch.arange(max(widths)) < torch.tensor(list(widths))[:, None]


def _only_neurons(scores: Float[Tensor, "layer neuron"], widths: Sequence[int]) -> Float[Tensor, "layer neuron"]:
    return scores.masked_fill(~exists(widths), -torch.inf)
