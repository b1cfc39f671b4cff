"""Figure 9: through which states does an answer pass?"""

from __future__ import annotations

import pandas as pd

from kntools.analyses.fig09_tracing_profile import PROMPTS, tracing_profile
from kntools.analyses.profile_result import TracingProfile
from kntools.analyses.two_sites import two_sites
from kntools.models import adapter
from kntools.report import choices
from kntools.report.choices import each_possible
from kntools.report.shown import Numbers, Picture, Shown, missing_notes, within
from kntools.report.study import Study
from kntools.results.table import Row

_NAMES = {
    "facts": "facts", "determiner_noun": "determiner-noun agreement", "subject_verb": "subject-verb agreement",
}  # fmt: skip


def tracing(study: Study) -> Shown:
    """Figure 9."""
    profiles, missing = each_possible(PROMPTS, lambda what: _traced(study, what))
    sites = {what: two_sites(profile, seed=study.seed) for what, profile in profiles.items()}
    answers = "; ".join(_yes_or_no(table, _NAMES[what]) for what, table in sites.items())
    return Shown(
        f"Do the early and the late site stand out? {answers}.",
        details=[_sites_in_words(table, _NAMES[what]) for what, table in sites.items()],
        n=", ".join(f"{len(profile.prompts)} prompts of {_NAMES[what]}" for what, profile in profiles.items()),
        parts=[
            part for what, profile in profiles.items() for part in _parts(what, profile, sites[what])
        ],
        notes=missing_notes({_NAMES[what]: why for what, why in missing.items()}),
    )  # fmt: skip


def _parts(what: str, profile: TracingProfile, sites: pd.DataFrame) -> list[Picture | Numbers]:
    name, title = f"figure-9-{what}", _NAMES[what]
    return [
        Picture(
            name, f"Causal traces: {title}", profile.plot(),
            "Probability of the answer that comes back when one clean state is put into the run with a noisy subject; "
            f"MLPs and attention in windows of {profile.window} layers. Bands are 95 % intervals over prompts.",
            min_width=720,
        ),
        Numbers(f"{name}-sites", f"Early and late site, and all other states: {title}.", sites),
        Numbers(name, f"Every role and layer: {title}.", profile.to_frame(), digits=4),
    ]  # fmt: skip


def _traced(study: Study, what: str) -> TracingProfile:
    prompts = study.choose(
        f"traced/{what}",
        lambda: choices.traced(study.model, what, study.size.traces, study.prepend_bos, study.sampled),
        choices.read_prompt,
    )
    return tracing_profile(
        study.model, prompts, sever=study.size.sever, window=max(1, min(10, adapter.n_layers(study.model) // 3)),
        samples=study.size.samples, seed=study.seed, two_way=PROMPTS[what], known_only=False,
        prepend_bos=study.prepend_bos, max_rows=study.max_rows, run=study.run(f"tracing_profile_{what}"),
        progress=study.progress,
    )  # fmt: skip


def _above_rest(table: pd.DataFrame) -> dict[str, Row]:
    """Of hidden states: the mean effect in each site of Meng et al. minus that in all other states."""
    hidden = table[(table["kind"] == "hidden") & (table["severed"] == "")].set_index("what").to_dict("index")
    return {site: hidden[f"{site} - rest"] for site in ("early site", "late site")}


def _yes_or_no(table: pd.DataFrame, name: str) -> str:
    early, late = ("yes" if r["low"] > 0 else "no" for r in _above_rest(table).values())
    return f"{name}: {early} and {late}"


def _sites_in_words(table: pd.DataFrame, name: str) -> str:
    parts = [
        f"{within(r['mean'], r['low'], r['high'], 2, signed=True)} in the {site}"
        for site, r in _above_rest(table).items()
    ]
    return f"{name[0].upper()}{name[1:]}, effect above that of all other hidden states: {' and '.join(parts)}."
