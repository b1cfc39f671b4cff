"""Figure 9: where in a sentence, and in which layers, does a model hold what an answer depends on?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, compress, islice
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from kntools import data
from kntools.analyses.neuron_search import open_run
from kntools.analyses.prompt_group import prompt_item
from kntools.arguments import PROMPTS, check_distinct, check_list, flag, several, whole
from kntools.engine.inputs import check_choice
from kntools.engine.texts import chunks
from kntools.metrics import UNITS
from kntools.models import adapter
from kntools.prompts import Prompt
from kntools.results.display import number
from kntools.results.result import Result
from kntools.results.statistics import CHANGE_OF_EFFECT, CHANGE_OF_SHARE, Interval, bootstrap_interval, mean_interval
from kntools.results.table import Row
from kntools.tracing.causal_tracing import trace_states
from kntools.tracing.noise import noise_level, subject_sigma
from kntools.tracing.restoration import KINDS, WINDOW, Kind, Severed, make_restoration
from kntools.tracing.token_roles import ROLES
from kntools.tracing.weak_corruption import warn_of_weak_corruption

Traced = Literal["facts", "determiner_noun", "subject_verb"]

#: What may be traced by name -> is the answer read against the foil alone (`two_way`)?
TRACED: dict[Traced, bool] = {"facts": False, "determiner_noun": True, "subject_verb": True}

# Prompts whose answers are checked at a time, until there are enough.
_ASKED_TOGETHER = 128

_NAMES = {"hidden": "hidden state", "mlp": "MLP output", "attn": "attention output"}
_CUT = {"mlp": "MLPs", "attn": "attention"}

#: Role, and from which to which share of the layers: 5 to 14, and 24 to 29, of 30.
SITES = {
    "early site": ("last subject token", Fraction(1, 6), Fraction(1, 2)),
    "late site": ("last token", Fraction(4, 5), Fraction(1)),
}


@dataclass(frozen=True, eq=False, repr=False)
class TracingProfile(Result):
    """Indirect effects of many prompts, by token role (the mean over its tokens) and layer, in the unit of `metric`.

    ```python
    profile.mean(), profile.interval()                 # [variant role layer]; over prompts
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
    metric: str = "probability"

    @property
    def variant_names(self) -> tuple[str, ...]:
        return tuple(_NAMES[kind] + (f", {_CUT[cut]} severed" if cut else "") for kind, cut in self.variants)

    @property
    def total_effect(self) -> Float[Tensor, " prompt"]:
        """Clean minus corrupted value of each prompt."""
        return self.clean - self.corrupted

    def mean(self) -> Float[Tensor, "variant role layer"]:
        return self.effects.nanmean(1)

    def count(self) -> Int[Tensor, " role"]:
        return (~self.effects[0, :, :, 0].isnan()).sum(0)

    def interval(self, *, seed: int = 0) -> Interval:
        """95 % interval of the mean over prompts, `(low, high)`, `[variant role layer]` each: `bootstrap_interval`."""
        return bootstrap_interval(self.effects.transpose(0, 1), bounds=CHANGE_OF_SHARE, seed=seed)

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

    def summary(self, *, seed: int = 0) -> pd.DataFrame:
        """Mean indirect effect in the two sites of Meng et al. (2022) and in all other states, with intervals.

        The early site is the last subject token in early and middle layers, the late site the last token in late layers
        (`SITES`); the rest are their other layers, and all layers of the other roles from the subject on. A prompt
        counts once: with the mean over the states of a site, and over the roles of the rest.

        Returns:
            `kind, severed, what, n, mean, low, high`. First the `total effect`, then for each variant `early site`,
            `late site`, `rest`, `early site - rest` and `late site - rest`. Differences are taken prompt by prompt;
            `seed` is of the bootstrap.
        """
        rows = [("", "", "total effect", self.total_effect)]
        for effects, (kind, cut) in zip(self.effects, self.variants, strict=True):
            rows += [(kind, cut or "", what, values) for what, values in site_effects(effects, self.roles).items()]
        named = [{"kind": k, "severed": c, "what": what, "n": int((~x.isnan()).sum())} for k, c, what, x in rows]
        differences = {f"{name} - rest" for name in SITES}
        bounds = [CHANGE_OF_EFFECT if what in differences else CHANGE_OF_SHARE for _, _, what, _ in rows]
        means = [mean_interval(x, bounds=b, seed=seed) for (*_, x), b in zip(rows, bounds, strict=True)]
        return pd.DataFrame([row | mean for row, mean in zip(named, means, strict=True)])

    def tables(self) -> dict[str, pd.DataFrame]:
        return {"sites": self.summary()}

    def plot(self, **options: Any) -> Any:
        """Lines with bands: `kntools.plots.role_lines`."""
        from kntools.plots.tokens import role_lines

        return role_lines(self, **options)

    def describe(self) -> str:
        n = len(self.prompts)
        cut = [_CUT[kind] for kind in ("mlp", "attn") if (kind, None) in self.variants]
        windows = f"; {' and '.join(cut)} of {self.window} layers together" if cut else ""
        unit = UNITS.get(self.metric, self.metric)
        means = [number(float(values.mean())) for values in (self.total_effect, self.clean, self.corrupted)]
        return (
            f"Causal traces of {n} prompt{'s' if n != 1 else ''} ({unit}; {self.provenance['model']}): mean total "
            f"effect {means[0]}, clean {means[1]}, corrupted {means[2]}{windows}"
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


def tracing_profile(
    model: Any,
    prompts: Sequence[Prompt],
    *,
    kinds: Sequence[Kind] = KINDS,
    sever: Sequence[Severed] = (),
    window: int | None = None,
    noise: float | str = "3sigma",
    samples: int = 10,
    seed: int = 0,
    two_way: bool = False,
    known_only: bool = True,
    run: str | Path | None = None,
) -> TracingProfile:
    """Average indirect effect by token role and layer (Meng et al. 2022, figure 2; Niu et al. 2024, figure 9).

    ```python
    facts = kn.data.known_facts(limit=100, known_only=model).prompts(model, multi_token="first")
    profile = tracing_profile(model, facts)
    profile.plot()
    ```

    Arguments:
        prompts: with subjects. The first token of an answer counts; prompts count equally.
        kinds: what is restored; see `causal_trace`.
        sever: also trace hidden states with `"mlp"` or `"attn"` severed.
        window: layers that are restored together for `"mlp"` and `"attn"`; `None` is 10, or all of a smaller model.
        noise: `"3sigma"` is 3 standard deviations of the embeddings of all these subjects; or a number.
        samples: of noise per prompt; prompt i draws them with `seed + i`.
        two_way: read the answer against the foil alone (the metric of that name); what counts as right changes with it.
        known_only: leave out prompts that the model gets wrong.

    Raises:
        ValueError: a kind is given twice, no prompts are left, or the file of another run; see also `causal_trace`.
    """
    samples, seed = whole("samples", samples, least=1), whole("seed", seed)
    flag("two_way", two_way)
    flag("known_only", known_only)
    check_list("prompts", prompts, Prompt, PROMPTS)
    variants: list[tuple[Kind, Severed | None]] = [(kind, None) for kind in several("kinds", kinds, "['hidden']")]
    variants += [("hidden", cut) for cut in several("sever", sever, "['mlp']")]
    check_distinct("(kind, sever)", variants)
    if not variants:
        raise ValueError(f"nothing to trace: kinds and sever are both empty; kinds are {', '.join(KINDS)}")
    asked = [replace(prompt, multi_token="first") for prompt in prompts]
    if known_only:
        asked = list(compress(asked, data.known(model, asked, two_way=two_way)))
    if not asked:
        raise ValueError("no prompts to trace: none was given, or the model gets none of them right")
    level, metric = noise_level(noise, lambda: subject_sigma(model, asked)), "two_way" if two_way else "probability"
    together = min(WINDOW, adapter.n_layers(model)) if window is None else window
    settings = {"noise": level, "samples": samples, "two_way": two_way, "window": together, "seed": seed}
    folder = open_run(run, "tracing profile", model, variants=variants, **settings)

    def trace(numbered: tuple[int, Prompt]) -> Row:
        number, prompt = numbered
        how: dict[str, Any] = {"noise": level, "samples": samples, "seed": seed + number, "metric": metric}
        restorations = [make_restoration(model, kind, together, cut, "restored") for kind, cut in variants]
        [traces] = trace_states(model, prompt, restorations, **how)
        effects = torch.stack([t.by_role() for t in traces])
        return {"effects": effects, "clean": traces[0].clean, "corrupted": traces[0].corrupted}

    found = folder.each(
        list(enumerate(asked)), key=lambda item: f"{item[0]}/{prompt_item(item[1])}", make=trace, unit="prompt"
    )
    clean, corrupted = ([payload[side] for payload in found] for side in ("clean", "corrupted"))
    warn_of_weak_corruption(list(zip([prompt.text for prompt in asked], clean, corrupted, strict=True)))
    return TracingProfile(
        effects=torch.stack([payload["effects"] for payload in found], dim=1),
        clean=torch.tensor(clean, dtype=torch.float32),
        corrupted=torch.tensor(corrupted, dtype=torch.float32),
        variants=tuple(variants),
        prompts=tuple(asked),
        window=together,
        provenance=folder.header,
        metric=metric,
    )


def traced_prompts(model: Any, what: Traced, *, limit: int) -> list[Prompt]:
    """The first `limit` prompts that the model gets right, of `"facts"`, `"determiner_noun"` or `"subject_verb"`.

    ```python
    tracing_profile(model, traced_prompts(model, "subject_verb", limit=50), two_way=True, known_only=False)
    ```
    """
    check_choice("what", what, tuple(TRACED))
    limit = whole("limit", limit, least=0)
    if what == "facts":
        asked = list(data.known_facts().prompts(model, multi_token="first"))
    elif what == "determiner_noun":
        asked = determiner_noun_prompts(model)
    else:
        asked = list(data.agreement_frames(what).prompts(model))
    parts = chunks(asked, _ASKED_TOGETHER)
    known = (compress(part, data.known(model, part, two_way=TRACED[what])) for part in parts)
    return list(islice(chain.from_iterable(known), limit))


def determiner_noun_prompts(model: Any) -> list[Prompt]:
    """BLiMP's pairs with an adjective: `Rebecca was criticizing those good` -> ` documentaries`, subject `those`.

    Were the determiner the last token, restoring it in any layer would restore everything.
    """
    pairs = data.blimp("determiner_noun_agreement_with_adjective_1").prompts(model)
    words = [(prompt, data.determiner(record)) for record, prompt in zip(pairs.records, pairs.prompts, strict=True)]
    return [replace(prompt, subject=word) for prompt, word in words if word and prompt.text.count(word) == 1]
