"""Figures 10 and 11: what an edit of the weights makes a model say."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pandas as pd

from kntools import analyses
from kntools.analyses.edit_methods import Method, edit_each
from kntools.analyses.fig11_edit_consistency import NoCaseLeft
from kntools.analyses.neuron_search import open_run
from kntools.editing.weight_edits import WeightEdit
from kntools.plots import bar_chart
from kntools.prompts import Prompt
from kntools.report.choices import NotPossible, each_possible
from kntools.report.facts import one_line
from kntools.report.figure import Shown, asset, blocks, share
from kntools.report.study import Study
from kntools.results.display import within
from kntools.results.table import Row

_TOKENS = 10  # that each text goes on by

#: Edits of figure 10 by name, and texts with what a continuation begins with if the edit is consistent.
EXAMPLES: dict[str, Row] = {
    f"{row['text']}: {row['old'].strip()} → {row['new'].strip()}": row for row in asset("examples.toml")["edits"]
}


def examples(study: Study) -> Shown:
    """Figure 10. Examples that were chosen by hand, without a test."""
    if study.masked:
        raise NotPossible("masked models do not continue text, and rank-one edits need a causal model")
    c = study.second_moment
    settings = {"layer": study.layer, "c": c.identity(), "seed": study.seed, "tokens": _TOKENS}
    folder = open_run(study.run("edit_examples"), "edit examples", study.model, **settings)
    # One item: the three edits share passes.
    made = folder.together(list(EXAMPLES), len(EXAMPLES), key=str, make=partial(_edited_examples, study), unit="edit")
    found = dict(zip(EXAMPLES, made, strict=True))
    missing = {name: payload["why"] for name, payload in found.items() if "why" in payload}
    done = {name: payload for name, payload in found.items() if "rows" in payload}
    if not done:
        raise NotPossible("; ".join(missing.values()))
    frame = pd.DataFrame([{"edit": name, **row} for name, payload in done.items() for row in payload["rows"]])
    edited, unrelated = (frame["group"] == group for group in ("edited", "unrelated"))
    parts = (frame[part]["follows"] for part in (edited, ~(edited | unrelated), unrelated))
    new, implied, kept = (share(int(follows.sum()), len(follows)) for follows in parts)
    return Shown(
        f"Examples without a test: after the edit, {new} edited texts continue with the new answer, {implied} implied "
        f"texts follow, and {kept} unrelated texts do not change.",
        blocks("figure-10", frame, tables={"edits": pd.DataFrame([{"edit": n, **p["edit"]} for n, p in done.items()])}),
        missing,
        _how(study),
    )


def _edited_examples(study: Study, names: Sequence[str]) -> list[Row]:
    """Of each example: continuations before and after its edit, or why that cannot be made."""
    rows = [EXAMPLES[name] for name in names]
    prompts = [Prompt(row["text"], row["old"], subject=row["subject"]) for row in rows]
    method = analyses.rome_method(study.layer, study.second_moment)
    edits = edit_each(study.model, method, prompts, [row["new"] for row in rows])
    return [
        {"why": edit.rsplit(";", 1)[0]} if isinstance(edit, str) else _continued(study.model, row, edit)
        for row, edit in zip(rows, edits, strict=True)
    ]


def _continued(model: Any, example: Row, edit: WeightEdit) -> Row:
    texts: dict[str, list[str]] = {}
    for text in example["texts"]:
        texts.setdefault(text["group"], []).append(text["text"])
    frame = analyses.edit_examples(model, edit, texts, max_new_tokens=_TOKENS).to_frame()
    begins = frame["text"].map({text["text"]: text.get("begins") for text in example["texts"]})
    frame["begins"] = begins.fillna(frame["before"].str.strip())
    frame["follows"] = [a.strip().startswith(b) for a, b in zip(frame["after"], frame["begins"], strict=True)]
    shown = ["before", "after", "begins"]
    frame[shown] = frame[shown].map(one_line)
    about = {name: getattr(edit, name) for name in ("before", "after", "key_cosine", "relative_norm")}
    return {"rows": frame.to_dict("records"), "edit": about}


#: Data set -> its scores that are shown: name in the table of the analysis -> name in the figure. The sentence has the
#: first two.
SCORES = {
    "P36": {
        "reliability, exact": "reliability",
        "symmetry, exact": "symmetry",
        "old direction gone": "old reverse gone",
    },
    "P101": {"reliability, exact": "reliability", "synonym, exact": "synonym"},
    "counterfact": {"efficacy": "efficacy", "paraphrase": "paraphrase", "neighborhood": "neighborhood"},
}


def consistency(study: Study) -> Shown:
    """Figure 11. Shares with intervals, without a test."""
    cases, missing = each_possible(SCORES, lambda what: _cases(study, what))
    result = _edited(study, cases)
    found = {what: result.part([c.key for c in listed if c.key in result.cases]) for what, listed in cases.items()}
    missing |= {what: "no edit of it is left" for what, part in found.items() if not part.cases}
    frame = pd.DataFrame([row for what, result in found.items() for row in _shares(result, what)])
    method = next(name for name in frame["method"] if name != "before")
    every = frame[frame["condition"] == "all"]
    after = every[every["method"] == method].groupby("data", sort=False).head(2)
    scores = [f"{row.data} {row.score} {within(row.value, row.low, row.high)} of {row.n}" for row in after.itertuples()]
    bars = bar_chart(
        every.assign(score=every["data"] + ": " + every["score"]),
        "score",
        "value",
        color="method",
        hover_data=["n"],
        labels={"score": "", "value": "share of edits"},
    )
    if result.skipped:
        missing[f"{sum(map(len, cases.values())) - len(result.cases)} edits"] = "; ".join(
            f"{n}: {why}" for why, n in result.skipped.items()
        )
    return Shown(
        f"Shares of edits by {method}, without a test: {', '.join(scores)} (Wilson's 95 % intervals).",
        blocks("figure-11", bars.update_yaxes(range=[0, 1.05]), frame),
        missing,
        _how(study),
    )


def _cases(study: Study, what: Any) -> list[analyses.Case]:
    if what == "counterfact" and study.masked:
        raise NotPossible("its sentences have no mask")
    # A masked model can be asked for few: all their answers are one token. Of CounterFact all records are read.
    among = None if study.masked or what == "counterfact" else study.size.among
    make = partial(analyses.make_cases, study.model, what, study.size.edits, seed=study.seed, among=among)
    return study.choose(f"cases/{what}", analyses.Case, make, "no fact has prompts for this model in both directions")


def _edited(study: Study, cases: Mapping[str, Sequence[analyses.Case]]) -> analyses.EditConsistency:
    """The edits of all data sets in one run, since they share passes."""
    size, model = study.size, study.model
    drawn = analyses.Continuations(0 if study.masked else size.continuations, seed=study.seed)
    methods: dict[str, Method] = {"edit_values": analyses.values_method()}
    if not study.masked:
        methods = {**analyses.editors(model, size.methods, layer=study.layer, second_moment=study.second_moment)}
    every = [case for listed in cases.values() for case in listed]
    try:
        return analyses.edit_consistency(model, every, methods, continuations=drawn, run=study.run("edit_consistency"))
    except NoCaseLeft as why:
        raise NotPossible(str(why)) from why


def _shares(result: analyses.EditConsistency, what: str) -> list[Row]:
    rows = result.to_frame().query("score in @SCORES[@what]").to_dict("records")
    return [{"data": what, **row, "score": SCORES[what][row["score"]]} for row in rows]


def _how(study: Study) -> str:
    if study.masked:
        return "Rank-one edits need a causal model; here five neurons' value slots are edited (Dai et al. 2022)."
    c = study.second_moment
    return f"Rank-one edits in layer {study.layer}, with a second moment of {c.count:,} generated tokens."
