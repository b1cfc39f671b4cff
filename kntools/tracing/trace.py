"""What causal tracing returns."""

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from kntools.arguments import whole
from kntools.prompts import Prompt
from kntools.results.display import excerpt, number
from kntools.results.result import Figure, Result
from kntools.tracing.token_roles import ROLES, token_roles


@dataclass(frozen=True, eq=False, repr=False)
class Trace(Result):
    """How much of the answer returns when one state of the clean run is restored in corrupted runs.

    ```python
    trace.scores            # [layer token]: the metric with that state restored, mean over samples
    trace.effect            # indirect effect: scores - corrupted
    trace.total_effect      # clean - corrupted
    trace.by_role()         # [role layer], mean effect over the tokens of each role (kntools.tracing.token_roles.ROLES)
    trace.to_frame(); trace.plot(); trace.save("trace.safetensors"); kn.load("trace.safetensors")
    ```
    """

    per_sample: Float[Tensor, "sample layer token"]
    corrupted_per_sample: Float[Tensor, " sample"]
    noise: Float[Tensor, "sample subject d_model"] | None  # what was added to the subject's embeddings
    noise_at: str | None  # and where: the hook; it may show a multiple: "embed.hook_out (12 x the embedding)"
    corrupted_prompt: Prompt | None  # or whose tokens replaced the clean ones
    clean: float
    metric: str
    tokens: tuple[str, ...]
    subject: range
    answer: int  # the position whose logits give the answer
    kind: str  # "hidden", "mlp" or "attn"
    window: int  # layers that are restored together; 1 for "hidden"
    sever: str | None  # what was held at its corrupted values above the restored state: "mlp" or "attn"
    sever_at: str  # ... at the "restored" token, or at "all" of them
    prompt: Prompt
    provenance: dict[str, Any]

    @property
    def scores(self) -> Float[Tensor, "layer token"]:
        return self.per_sample.mean(0)

    @property
    def corrupted(self) -> float:
        return float(self.corrupted_per_sample.mean())

    @property
    def effect(self) -> Float[Tensor, "layer token"]:
        """Indirect effect; of a severed trace, the part that does not pass through the severed modules."""
        return (self.per_sample - self.corrupted_per_sample[:, None, None]).mean(0)

    @property
    def total_effect(self) -> float:
        return self.clean - self.corrupted

    @property
    def roles(self) -> tuple[str, ...]:
        """The role of each token."""
        return token_roles(len(self.tokens), self.subject, self.answer)

    def by_role(self) -> Float[Tensor, "role layer"]:
        """Mean effect over the tokens of each role, in the order of `kntools.tracing.token_roles.ROLES`."""
        effect, roles = self.effect, self.roles
        tokens = [[i for i, other in enumerate(roles) if other == role] for role in ROLES]
        return torch.stack([effect[:, at].mean(1) for at in tokens])  # nan where a prompt has no such token

    def top(self, k: int = 5) -> tuple[tuple[int, int], ...]:
        """The `k` states `(layer, token)` with the largest effect."""
        k = whole("k", k, 0, self.effect.numel())
        order = self.effect.flatten().argsort(descending=True, stable=True)[:k].tolist()
        return tuple((i // len(self.tokens), i % len(self.tokens)) for i in order)

    def to_frame(self) -> pd.DataFrame:
        """One row per state: `kind, layer, position, token, role, score, effect`."""
        layers = len(self.scores)
        cells = pd.MultiIndex.from_product([range(layers), range(len(self.tokens))], names=["layer", "position"])
        frame = cells.to_frame(index=False).assign(token=list(self.tokens) * layers, role=list(self.roles) * layers)
        frame.insert(0, "kind", self.kind)
        return frame.assign(score=self.scores.flatten().numpy(), effect=self.effect.flatten().numpy())

    def plot(self, **options: Any) -> Figure:
        """Layers x tokens: `kntools.plots.trace_heatmap`."""
        from kntools.plots.tokens import trace_heatmap

        return trace_heatmap(self, **options)

    def describe(self) -> str:
        what = "hidden states" if self.kind == "hidden" else f"{self.kind} output, {self.window} layers"
        cut = f", {self.sever} severed" if self.sever else ""
        other = self.corrupted_prompt
        how = f"{len(self.per_sample)} samples of noise" if other is None else f"corrupted: {excerpt(other.text)!r}"
        return (
            f"Trace of {what}{cut}: {excerpt(self.prompt.text)!r} -> {self.prompt.target!r}, {self.metric} "
            f"{number(self.clean)} clean, {number(self.corrupted)} corrupted ({self.provenance['model']}, {how})"
        )

    def preview(self) -> pd.DataFrame:
        """The state with the largest effect of each role: `role, position, token, layer, score, effect`."""
        frame = self.to_frame()
        best = frame.loc[frame.groupby("role", sort=False)["effect"].idxmax()]
        return best[["role", "position", "token", "layer", "score", "effect"]]
