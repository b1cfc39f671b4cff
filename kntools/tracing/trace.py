"""What causal tracing returns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from kntools.prompts import Prompt
from kntools.results import saving
from kntools.results.display import as_html
from kntools.tracing.token_roles import by_role, token_roles

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

_TENSORS = ("per_sample", "corrupted_per_sample", "noise")
_FIELDS = ("clean", "tokens", "answer", "window", "sever", "sever_at", "two_way")


@dataclass(frozen=True, repr=False)
class Trace:
    """How probable the answer becomes again when one state of the clean run is put back into corrupted runs.

    ```python
    trace.scores            # [layer token]: probability of the answer with that state restored, mean over samples
    trace.effect            # indirect effect: scores - corrupted
    trace.total_effect      # clean - corrupted
    trace.by_role()         # [role layer], mean effect over the tokens of each role (kntools.tracing.token_roles.ROLES)
    trace.to_frame(); trace.plot(); trace.save("trace.safetensors"); kn.Trace.load("trace.safetensors")
    ```
    """

    per_sample: Float[Tensor, "sample layer token"]
    corrupted_per_sample: Float[Tensor, " sample"]
    noise: Float[Tensor, "sample subject d_model"]  # what was added to the subject's embeddings
    clean: float
    tokens: tuple[str, ...]
    subject: range
    answer: int  # the position whose logits give the answer
    kind: str  # "hidden", "mlp" or "attn"
    window: int  # layers that are restored together; 1 for "hidden"
    sever: str | None  # what was held at its corrupted values above the restored state: "mlp" or "attn"
    sever_at: str  # ... at the "restored" token, or at "all" of them
    two_way: bool  # probabilities are those of the target against the foil alone
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
        """Indirect effect; of a severed trace, the part that does not pass through what was severed."""
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
        return by_role(self.effect, self.roles)

    def top(self, k: int = 5) -> tuple[tuple[int, int], ...]:
        """The `k` states `(layer, token)` with the largest effect."""
        if not 0 <= k <= self.effect.numel():
            raise ValueError(f"k={k}; there are {self.effect.numel()} states")
        order = self.effect.flatten().argsort(descending=True, stable=True)[:k].tolist()
        return tuple((i // len(self.tokens), i % len(self.tokens)) for i in order)

    def to_frame(self) -> pd.DataFrame:
        """One row per state: `kind, layer, position, token, role, score, effect`."""
        layers, count = self.scores.shape
        roles = self.roles
        return pd.DataFrame(
            {
                "kind": self.kind,
                "layer": torch.arange(layers).repeat_interleave(count).numpy(),
                "position": torch.arange(count).repeat(layers).numpy(),
                "token": [self.tokens[p] for _ in range(layers) for p in range(count)],
                "role": [roles[p] for _ in range(layers) for p in range(count)],
                "score": self.scores.flatten().numpy(),
                "effect": self.effect.flatten().numpy(),
            }
        )

    def plot(self, **options: Any) -> Figure:
        """Layers x tokens: `kntools.plots.trace_heatmap`."""
        from kntools.plots.tokens import trace_heatmap

        return trace_heatmap(self, **options)

    def save(self, path: str | Path) -> Path:
        """Write to a `.safetensors` file with a JSON header."""
        header = {
            **self.provenance,
            **{name: getattr(self, name) for name in _FIELDS},
            "traced": self.kind,  # "kind" is what kind of file this is
            "subject": [self.subject.start, self.subject.stop],
            "prompts": saving.prompts_to_json([self.prompt]),
        }
        return saving.save(path, "trace", {name: getattr(self, name) for name in _TENSORS}, header)

    @classmethod
    def load(cls, path: str | Path) -> Trace:
        """Read what `save` wrote.

        Raises:
            FileNotFoundError, ValueError: no such file, or not a trace.
        """
        tensors, header = saving.load(path, "trace")
        plain = {name: header[name] for name in _FIELDS} | {"tokens": tuple(header["tokens"])}
        return cls(
            per_sample=tensors["per_sample"],
            corrupted_per_sample=tensors["corrupted_per_sample"],
            noise=tensors["noise"],
            **plain,
            kind=header["traced"],
            subject=range(*header["subject"]),
            prompt=saving.prompts_from_json(header["prompts"])[0],
            provenance={k: header[k] for k in ("model", "fingerprint", "settings", "versions")},
        )

    def _title(self) -> str:
        what = "hidden states" if self.kind == "hidden" else f"{self.kind} output, {self.window} layers"
        cut = f", {self.sever} severed" if self.sever else ""
        return (
            f"Trace of {what}{cut}: {self.prompt.text!r} -> {self.prompt.target!r}, {self.clean:.3f} clean, "
            f"{self.corrupted:.3f} corrupted ({self.provenance['model']}, {self.per_sample.shape[0]} samples)"
        )

    def _states(self) -> list[tuple[str, str]]:
        """The state with the largest effect of every role that has one."""
        found = []
        for role in dict.fromkeys(self.roles):
            at = [p for p, r in enumerate(self.roles) if r == role]
            best = self.effect[:, at]
            if role != "before the subject" or float(best.abs().max()) > 0:
                i = int(best.argmax())
                layer, p = i // len(at), at[i % len(at)]
                found.append((f"{role} {self.tokens[p]!r}, L{layer}", f"{float(best.max()):+.3f}"))
        return found

    def __repr__(self) -> str:
        return "\n".join([self._title(), *(f"  {state}: {effect}" for state, effect in self._states())])

    def _repr_html_(self) -> str:
        return as_html(self._title(), self._states(), ["state", "largest effect of its role"])
