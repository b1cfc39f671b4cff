"""Figures 1 to 4, 8 and 9: which neurons and states carry an answer, and what editing neurons overturns."""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from kntools import analyses, data
from kntools.analyses.fig02_pair_search import NUMBERS
from kntools.analyses.fig09_tracing_profile import SITES, TRACED, site_effects
from kntools.analyses.prompt_group import is_relation
from kntools.metrics import UNITS
from kntools.models import adapter
from kntools.prompts import Prompt
from kntools.report.choices import NotPossible, by_determiner, each_possible
from kntools.report.figure import ALPHA, Shown, blocks, paired_test, share, tested
from kntools.report.page import Block
from kntools.report.study import Study
from kntools.results.display import within
from kntools.results.statistics import CHANGE_OF_EFFECT, fisher, holm, sign_test
from kntools.results.table import Row


def attribution(study: Study) -> Shown:
    """Figure 1. It has no test: what leads is a candidate."""
    prompts = by_determiner(study.pairs, study.size.per_determiner)
    profile = analyses.attribution_profile(study.model, prompts, seed=study.seed, run=study.run("attribution_profile"))
    candidates = ", ".join(
        f"{neuron!r} ({name})" for name, neuron in zip(profile.classes, profile.leading_of_each(), strict=True)
    )
    heatmap = profile.plot(k=3).update_yaxes(title_text="determiner")
    sentence = f"Candidates, by the highest mean score in the other half of the prompts, without a test: {candidates}."
    return Shown(sentence, blocks("figure-1", heatmap, profile.to_frame()))


def pair_search(study: Study) -> Shown:
    """Figure 2. Candidates are chosen on one half of the nouns, and pass or fail on the other."""
    found = study.pair_search
    claims = found.claims(k=1)
    passed = [
        f"{row.neuron} for the {row.number}, in {share(int(row.found), int(row.nouns))} nouns and "
        f"{100 * row.opposite:.0f} % of the others"
        for row in claims.itertuples()
        if row.p_holm < ALPHA
    ]
    candidates = [f"{neuron} for the {number}" for number in NUMBERS for neuron in found.leading(number)]
    nothing = f"neuron of a number (candidates: {', '.join(candidates) or 'none'})"
    test_half = found.frame[found.frame["half"] == "test"]
    counts = test_half.groupby("number", sort=False)["nouns"].nunique()
    against = " and sign test against the foil" if found.frame["metric"][0] == "contrast" else ""
    n = " and ".join(f"{count} {number}" for number, count in counts.items())
    test = f"one-sided Fisher's exact test{against} on the test half, Holm-corrected, n = {n} nouns"
    content = blocks("figure-2", found.plot(), claims, tables={"shares": found.shares(), "pairs": found.to_frame()})
    least = [fisher(n, n, 0, counts.sum() - n, "greater") for n in claims["nouns"]]  # found in all, and in no other
    return Shown(tested(passed, nothing, test, claims["p_holm"], min(holm(least), default=0.0)), content)


def localisation(study: Study) -> Shown:
    """Figure 3."""
    found, missing = study.localised
    tests = found.difference()
    passed = [
        f"{row.measure} is {row.linguistic:.2f} for agreement and {row.factual:.2f} for facts"
        for row in tests.itertuples()
        if row.p_holm < ALPHA
    ]
    units = f"{tests['paradigms'][0]} paradigms and {tests['relations'][0]} relations"
    test = f"Welch's test, Holm-corrected, n = {units}"
    sentence = tested(passed, "difference between agreement and facts", test, tests["p_holm"])
    tables = {"difference": tests, "groups": found.to_frame()}
    return Shown(sentence, blocks("figure-3", found.plot(), found.summary(), tables=tables), missing)


def layers(study: Study) -> Shown:
    """Figure 4."""
    found, missing = study.localised
    if not any(found.neurons()):
        raise NotPossible("no group has a knowledge neuron")
    spread = analyses.layer_distribution(found, seed=study.seed)
    test, passed, tables = spread.details["test"], [], {}
    if test is not None:
        means = dict(zip(("mean layer of agreement", "mean layer of facts"), test["means"], strict=True))
        tables = {"test": pd.DataFrame([{**means, "distance": test["distance"], "p": test["p"]}])}
        if test["p"] < ALPHA:
            passed = [f"Layers of agreement and facts differ by a distance of {test['distance']:.2f} (0 to 1)"]
    counts = " and ".join(f"{n} {kind} groups" for kind, n in spread.details["groups"].items())
    counts += "" if test is None else f" of {test['permuted']}"
    nothing = "difference between the layers of agreement and of facts"
    content = blocks("figure-4", spread.plot(), spread.to_frame(), tables=tables)
    p_values, least = ([], 0.0) if test is None else ([test["p"]], test["least"])
    return Shown(tested(passed, nothing, f"permutation test, n = {counts}", p_values, least), content, missing)


def overturned(study: Study) -> Shown:
    """Figure 8."""
    prompts, missing = each_possible((study.paradigms[0], *study.relations), lambda source: _judged(study, source))
    found = analyses.reliability(study.model, prompts, seed=study.seed, run=study.run("reliability"))
    summary = found.summary()
    passed = [
        f"{row.edit} overturns {share(round(row.share * row.n), row.n)} of {row.source}, random neurons "
        f"{share(round(row.random * row.n), row.n)}"
        for row in summary.itertuples()
        if row.p_holm < ALPHA and row.share > row.random
    ]
    counts = ", ".join(f"{n} of {source}" for source, n in summary.groupby("source", sort=False)["n"].first().items())
    nothing = "edit of leading neurons, against random ones,"
    least = min(holm([sign_test(n, 0) for n in summary["n"]]))  # all overturned, and none by random neurons
    test = f"McNemar's exact test, Holm-corrected, n = {counts}"
    sentence = tested(passed, nothing, test, summary["p_holm"], least)
    return Shown(sentence, blocks("figure-8", found.plot(), summary, tables={"prompts": found.to_frame()}), missing)


def _judged(study: Study, source: str) -> list[Prompt]:
    limit = study.size.judged_facts if is_relation(source) else study.size.judged_pairs
    asked: dict[str, Any] = {"sources": [source], "limit": limit, "seed": study.seed}
    return study.choose(f"judged/{source}", Prompt, lambda: analyses.known_prompts(study.model, **asked)[source])


def tracing(study: Study) -> Shown:
    """Figure 9."""
    profiles, missing = each_possible(TRACED, lambda what: _traced(study, what))
    content = list[Block]()
    rows, effects = list[Row](), list[Row]()  # effects in a site minus those in all other states
    for what, profile in profiles.items():
        for states, (kind, cut) in zip(profile.effects, profile.variants, strict=True):
            found = site_effects(states, profile.roles)
            for site in SITES:
                about = {"prompts": _words(what), "kind": kind, "severed": cut or "", "site": site}
                above = found[f"{site} - rest"]
                rows.append({**about, **paired_test(above, CHANGE_OF_EFFECT)})
                effects += [{**about, "prompt": n, "above rest": value} for n, value in enumerate(above.tolist())]
        unit = "the answer's probability" if profile.metric == "probability" else UNITS[profile.metric]
        shown: dict[str, Any] = {"part": what, "what": _words(what), "window": profile.window, "unit": unit}
        content += blocks("figure-9", profile.plot(), profile.to_frame(), **shown)
    tests = pd.DataFrame(rows).assign(p_holm=holm([row["p"] for row in rows]))
    passed = [
        f"{row.site} of {row.prompts} {within(row.mean, row.low, row.high)} above all other states"
        for row in tests.itertuples()
        if row.kind == "hidden" and not row.severed and row.p_holm < ALPHA and row.mean > 0
    ]
    counts = ", ".join(f"{len(profile.prompts)} of {_words(what)}" for what, profile in profiles.items())
    nothing = "early or late site, against all other hidden states,"
    content += blocks("figure-9", tables={"tests": tests, "prompts": pd.DataFrame(effects)})
    sentence = tested(passed, nothing, f"t-test over prompts, Holm-corrected, n = {counts}", tests["p_holm"])
    return Shown(sentence, content, {_words(what): why for what, why in missing.items()})


def _traced(study: Study, what: Any) -> analyses.TracingProfile:
    size, model = study.size, study.model

    def known() -> Sequence[Prompt]:
        if what == "determiner_noun" and study.sampled:  # frames of our own where the pairs are our own
            return data.agreement_frames(what, limit=size.traces, known_only=model).prompts(model).prompts
        return analyses.traced_prompts(model, what, limit=size.traces)

    prompts = study.choose(f"traced/{what}", Prompt, known)
    return analyses.tracing_profile(
        model,
        prompts,
        sever=size.sever,
        window=max(1, min(10, adapter.n_layers(model) // 3)),
        samples=size.samples,
        seed=study.seed,
        two_way=TRACED[what],
        known_only=False,
        run=study.run(f"tracing_profile_{what}"),
    )


def _words(what: str) -> str:
    return "facts" if what == "facts" else f"{what.replace('_', '-')} agreement"
