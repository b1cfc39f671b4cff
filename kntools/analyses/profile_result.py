"""What a tracing profile holds, and how far its early and its late site stand out of all other states."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kntools.prompts import Prompt
from kntools.results.display import number
from kntools.results.result import Result
from kntools.results.statistics import Interval, bootstrap_interval, mean_interval
from kntools.tracing.token_roles import ROLES

_NAMES = {"hidden": "hidden state", "mlp": "MLP output", "attn": "attention output"}
_CUT = {"mlp": "MLPs", "attn": "attention"}

#: Role, and from which to which share of the layers: 5 to 14, and 24 to 29, of 30.
SITES = {
    "early site": ("last subject token", Fraction(1, 6), Fraction(1, 2)),
    "late site": ("last token", Fraction(4, 5), Fraction(1)),
}


@dataclass(frozen=True, eq=False, repr=False)
class TracingProfile(Result):
    """Indirect effects of many prompts, by token role (the mean over its tokens) and layer.

    ```python
    profile.mean(), profile.interval()                 # [variant role layer]; a bootstrap over prompts
    profile.count()                                    # [role]: how many prompts have such a token
    profile.peak("hidden", "last subject token")       # (layer, mean effect)
    ```
    """

    effects: Float[Tensor, "variant prompt role layer"]  # nan where a prompt has no token of that role
    clean: Float[Tensor, " prompt"]
    corrupted: Float[Tensor, " prompt"]
    variants: tuple[tuple[str, str | None], ...]  # (kind, what is severed)
    prompts: tuple[Prompt, ...]
    window: int
    provenance: dict[str, Any]
    roles: tuple[str, ...] = ROLES

    @property
    def variant_names(self) -> tuple[str, ...]:
        return tuple(_NAMES[kind] + (f", {_CUT[cut]} severed" if cut else "") for kind, cut in self.variants)

    @property
    def total_effect(self) -> Float[Tensor, " prompt"]:
        """Clean minus corrupted probability of each prompt."""
        return self.clean - self.corrupted

    def mean(self) -> Float[Tensor, "variant role layer"]:
        return self.effects.nanmean(1)

    def count(self) -> Int[Tensor, " role"]:
        return (~self.effects[0, :, :, 0].isnan()).sum(0)

    def interval(self, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0) -> Interval:
        """Bootstrap interval of the mean over prompts: `(low, high)`, `[variant role layer]` each."""
        by_prompt = self.effects.transpose(0, 1)
        return bootstrap_interval(by_prompt, confidence=confidence, resamples=resamples, seed=seed)

    def peak(self, kind: str, role: str, *, sever: str | None = None) -> tuple[int, float]:
        """The layer with the largest mean effect for a role, and that effect."""
        if (kind, sever) not in self.variants or role not in self.roles:
            raise ValueError(f"no ({kind!r}, sever={sever!r}, {role!r}); there are {self.variants} and {self.roles}")
        line = self.mean()[self.variants.index((kind, sever)), self.roles.index(role)]
        if bool(line.isnan().all()):
            raise ValueError(f"no prompt has a token of the role {role!r}")
        return int(line.argmax()), float(line.max())

    def to_frame(self) -> pd.DataFrame:
        """One row per variant, role and layer: `kind, severed, role, layer, n, effect, low, high`."""
        n, lines = self.count(), torch.stack([self.mean(), *self.interval()], dim=-1)
        rows = [
            (kind, cut or "", role, layer, int(n[r]), *lines[v, r, layer].tolist())
            for v, (kind, cut) in enumerate(self.variants)
            for r, role in enumerate(self.roles)
            if n[r] > 0
            for layer in range(lines.shape[2])
        ]
        return pd.DataFrame(rows, columns=["kind", "severed", "role", "layer", "n", "effect", "low", "high"])

    def summary(self) -> pd.DataFrame:
        """The early and the late site against the rest: `two_sites`."""
        return two_sites(self)

    def tables(self) -> dict[str, pd.DataFrame]:
        return {"sites": two_sites(self)}

    def plot(self, **options: Any) -> Any:
        """Lines with bands: `kntools.plots.role_lines`."""
        from kntools.plots.effects import role_lines

        return role_lines(self, **options)

    def describe(self) -> str:
        n = len(self.prompts)
        several = [_CUT[kind] for kind in ("mlp", "attn") if (kind, None) in self.variants]
        windows = f"; {' and '.join(several)} of {self.window} layers together" if several else ""
        means = [number(float(values.mean())) for values in (self.total_effect, self.clean, self.corrupted)]
        return (
            f"Causal traces of {n} prompt{'s' if n != 1 else ''} ({self.provenance['model']}): mean total effect "
            f"{means[0]}, clean {means[1]}, corrupted {means[2]}{windows}"
        )

    def preview(self) -> pd.DataFrame:
        """What is restored and at which role, the layer where it has the largest effect, and that effect."""
        rows = [
            (name, role, *self.peak(kind, role, sever=cut))
            for name, (kind, cut) in zip(self.variant_names, self.variants, strict=True)
            for role, n in zip(self.roles, self.count().tolist(), strict=True)
            if n and not role.startswith("before")
        ]
        return pd.DataFrame(rows, columns=["restored", "at", "layer of the largest effect", "effect"])


def two_sites(profile: TracingProfile, *, seed: int = 0) -> pd.DataFrame:
    """Mean indirect effect in the two sites of Meng et al. (2022) and in all other states, with intervals.

    ```python
    two_sites(tracing_profile(model, facts))       # columns: kind, severed, what, n, mean, low, high
    ```

    The early site is the last subject token in early and middle layers, the late site the last token in late layers
    (`SITES`); the rest are their other layers, and all layers of the other roles from the subject on. A prompt counts
    once: with the mean over the states of a site, and over the roles of the rest.

    Returns:
        First the `total effect`, then for each variant `early site`, `late site`, `rest`, `early site - rest` and
        `late site - rest`. Differences are taken prompt by prompt; `seed` is of the bootstrap.
    """
    rows = [("", "", "total effect", profile.total_effect)]
    for effects, (kind, cut) in zip(profile.effects, profile.variants, strict=True):
        rows += [(kind, cut or "", what, values) for what, values in site_effects(effects, profile.roles).items()]
    named = [{"kind": k, "severed": c, "what": what, "n": int((~x.isnan()).sum())} for k, c, what, x in rows]
    return pd.DataFrame([row | mean_interval(x, seed=seed) for row, (*_, x) in zip(named, rows, strict=True)])


def site_effects(effects: Float[Tensor, "prompt role layer"], roles: tuple[str, ...]) -> dict[str, Tensor]:
    """Of one variant, per prompt: the effect in each site and in the rest, and their differences."""
    layers, rest, found = effects.shape[-1], effects.clone(), {}
    for name, (role, first, last) in SITES.items():
        at, where = roles.index(role), slice(int(layers * first), int(layers * last))
        found[name] = effects[:, at, where].mean(-1)
        rest[:, at, where] = torch.nan
    # What the noise cannot reach would make the rest look smaller than it is.
    reached = [r for r, role in enumerate(roles) if not role.startswith("before")]
    found["rest"] = rest[:, reached].nanmean(-1).nanmean(-1)
    return found | {f"{name} - rest": found[name] - found["rest"] for name in SITES}
