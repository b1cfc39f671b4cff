"""What `rome` returns: an edit whose change of `W_out` is an outer product, and what it says about itself."""

from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from kntools.editing.changes import Change, Constraints
from kntools.editing.second_moment import unprotected
from kntools.editing.weight_edits import WeightEdit
from kntools.prompts import Prompt
from kntools.results.display import excerpt, number
from kntools.results.result import Figure

#: Warnings: below this cosine the mean key is not the prompt's own key; above this norm (relative to that of `W_out`)
#: an update changes what other keys read too; below this probability the edit has not taken.
LOW_COSINE, LARGE_UPDATE, LOW_PROBABILITY = 0.5, 0.5, 0.5


@dataclass(frozen=True)
class Step:
    """One step of the value optimisation. All are means over templates, in nats; their sum is `loss`."""

    loss: float
    target: float  # -log P(target)
    kl: float  # kl_weight * KL(edited || original)
    decay: float  # weight_decay * |delta| / |v0|^2

    @property
    def log_probability(self) -> float:
        return -self.target


@dataclass(frozen=True, eq=False, repr=False)
class RankOneEdit(WeightEdit):
    """A rank-one edit of one layer's `W_out` (Meng et al. 2022, equation 2).

    ```python
    edit = kn.rome(model, prompt, " Rome", layer=8, second_moment=C)
    edit.delta                            # [d_mlp d_model] = outer(edit.left, edit.right), added to W_out
    edit.steps[-1].log_probability        # the optimisation's loss curve
    edit.key_cosine, edit.relative_norm, edit.before, edit.after
    with edit.applied(model): ...
    ```

    `key @ W_out + b_out` is `value` after the edit (with `key="published"`: `prompt_key @ W_out + b_out`).
    """

    left: Float[Tensor, " d_mlp"]  # C^-1 key, of length 1
    right: Float[Tensor, " d_model"]
    layer: int
    key: Float[Tensor, " d_mlp"]  # mean over templates
    prompt_key: Float[Tensor, " d_mlp"]  # of the bare prompt
    value: Float[Tensor, " d_model"]  # what the MLP gives for the key after the edit
    steps: tuple[Step, ...]
    weight_norm: float  # Frobenius norm of W_out before the edit
    before: float  # probability of the target after the bare prompt
    after: float
    ridge: float | None  # what was added to the diagonal of C, or None: C = I
    prompt: Prompt
    target: str
    provenance: dict[str, Any]

    @property
    def delta(self) -> Float[Tensor, "d_mlp d_model"]:
        return torch.outer(self.left, self.right)

    @property
    def changes(self) -> tuple[Change, ...]:  # type: ignore[override] # a field in other edits; it is only read
        return (Change(self.layer, self.delta),)

    @property
    def constraints(self) -> tuple[Constraints, ...]:  # type: ignore[override]  # read only, as `changes`
        key = self.prompt_key if self.provenance["settings"]["key"] == "published" else self.key
        wanted = self.right * (key @ self.left)
        return (Constraints(self.layer, key[None], self.left[None], wanted[None], (repr(self.prompt.text),)),)

    @property
    def key_cosine(self) -> float:
        """Cosine of the mean key and the bare prompt's key."""
        return float(torch.nn.functional.cosine_similarity(self.key, self.prompt_key, dim=0))

    @property
    def relative_norm(self) -> float:
        """Norm of the update relative to that of `W_out`."""
        return float(self.left.norm() * self.right.norm()) / self.weight_norm

    @property
    def uses_second_moment(self) -> bool:
        return self.ridge is not None

    def warnings(self) -> list[str]:
        """Signs that the edit failed or changes other answers; empty if there are none."""
        found = [] if self.uses_second_moment else [unprotected("second_moment", [self.layer], len(self.left))]
        if self.key_cosine < LOW_COSINE:
            found.append(
                f"the key of the bare prompt is far from the mean key (cosine {self.key_cosine:.2f}): the edit will "
                "not act where the prompt stands alone. If the subject opens the text, use "
                "kn.load_model(..., prepend_bos=True), or put words before it"
            )
        if self.relative_norm > LARGE_UPDATE:
            found.append(
                f"the update is large ({self.relative_norm:.2f} of the norm of W_out): expect other facts to change. "
                "Try another layer, a smaller clamp, or a second moment of more text"
            )
        if self.after < LOW_PROBABILITY:
            found.append(
                f"the target has probability {number(self.after)} after the edit (before: {number(self.before)}): "
                "it has not taken. Try an earlier layer, or more steps"
            )
        return found

    def to_frame(self) -> pd.DataFrame:
        """The loss curve: one row per step, `step, loss, target, kl, decay`."""
        return pd.DataFrame([{"step": n, **asdict(step)} for n, step in enumerate(self.steps)])

    def plot(self, **look: Any) -> Figure:
        """The loss per step, and its three terms."""
        from kntools.plots.charts import line_chart

        terms = {"loss": "loss", "target": "-log P(target)", "kl": "KL", "decay": "weight decay"}
        frame = self.to_frame().rename(columns=terms).melt("step", var_name="term", value_name="nats")
        labels = {"nats": "nats (mean over templates)"}
        figure = line_chart(frame, "step", "nats", color="term", labels=labels, **{"title": self.title(), **look})
        return figure.update_traces(line_width=3, selector={"name": "loss"}).update_yaxes(rangemode="tozero")

    def title(self) -> str:
        return f"{excerpt(self.prompt.text)!r} -> {self.target!r} in L{self.layer}"

    def preview(self) -> pd.DataFrame:
        settings = self.provenance["settings"]
        used = "C = I"
        if self.ridge is not None:  # the digest of C is for programs
            used = f"C of {settings['second_moment'].partition(' #')[0]} (ridge {self.ridge:.1e})"
        lines = [
            ("second moment", used),
            ("key", f"{settings['key']}, {len(settings['templates'])} templates, cosine {self.key_cosine:.2f}"),
            ("P(target)", f"{number(self.before)} before, {number(self.after)} after"),
            ("loss", f"{self.steps[0].loss:.3f} -> {self.steps[-1].loss:.3f} in {len(self.steps)} steps"),
            ("update", f"{self.relative_norm:.3f} of the norm of W_out"),
            *(("warning", text) for text in self.warnings()),
        ]
        return pd.DataFrame(lines, columns=["about", "value"])
