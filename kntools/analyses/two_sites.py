"""The early and the late site of a tracing profile, and how far they stand out of all other states."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from kntools.results.statistics import bootstrap_interval

if TYPE_CHECKING:
    from kntools.analyses.profile_result import TracingProfile

#: Role, and from which to which share of the layers: 5 to 14, and 24 to 29, of 30.
SITES = {
    "early site": ("last subject token", Fraction(1, 6), Fraction(1, 2)),
    "late site": ("last token", Fraction(4, 5), Fraction(1)),
}


def two_sites(
    profile: TracingProfile, *, confidence: float = 0.95, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Mean indirect effect in the two sites of Meng et al. (2022) and in all other states, with intervals.

    ```python
    two_sites(tracing_profile(model, facts))       # columns: kind, severed, what, n, mean, low, high
    ```

    The early site is the last subject token in early and middle layers, the late site the last token in late layers
    (`SITES`); the rest are all other layers of these tokens, and all layers of the other roles from the subject on. A
    prompt counts once: with the mean over the states of a site, and over the roles of the rest.

    Arguments:
        profile: of any model; where the sites lie is a share of its layers.
        confidence, resamples, seed: of the bootstrap over prompts.

    Returns:
        For each variant the rows `early site`, `late site`, `rest`, `early site - rest` and `late site - rest`; the
        first row is the `total effect`. Differences are taken prompt by prompt.
    """
    rows = [("", "", "total effect", profile.total_effect)]
    for v, (kind, cut) in enumerate(profile.variants):
        found = _per_prompt(profile.effects[v], profile.roles)
        rows += [(kind, cut or "", what, values) for what, values in found.items()]
    return pd.DataFrame(
        {"kind": kind, "severed": cut, "what": what, **_summary(values, confidence, resamples, seed)}
        for kind, cut, what, values in rows
    )


def _per_prompt(effects: Float[Tensor, "prompt role layer"], roles: tuple[str, ...]) -> dict[str, Tensor]:
    layers, rest, found = effects.shape[-1], effects.clone(), {}
    for name, (role, first, last) in SITES.items():
        at, where = roles.index(role), slice(int(layers * first), int(layers * last))
        found[name] = effects[:, at, where].mean(-1)
        rest[:, at, where] = torch.nan
    # What the noise cannot reach would make the rest look smaller than it is.
    reached = [r for r, role in enumerate(roles) if not role.startswith("before")]
    found["rest"] = rest[:, reached].nanmean(-1).nanmean(-1)
    return found | {f"{name} - rest": found[name] - found["rest"] for name in SITES}


def _summary(values: Float[Tensor, " prompt"], confidence: float, resamples: int, seed: int) -> dict[str, int | float]:
    low, high = bootstrap_interval(values, confidence=confidence, resamples=resamples, seed=seed)
    return {
        "n": int((~values.isnan()).sum()),
        "mean": float(values.nanmean()),
        "low": float(low),
        "high": float(high),
    }
