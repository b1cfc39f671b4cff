"""Figures 10 and 11: what an edit of the weights makes a model say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from kntools.analyses.edit_cases import make_cases
from kntools.analyses.edit_methods import Method, fine_tune_method, rome_method, values_method
from kntools.analyses.edit_result import EditConsistency
from kntools.analyses.fig10_edit_examples import edit_examples
from kntools.analyses.fig11_edit_consistency import NoCaseLeft, edit_consistency
from kntools.analyses.neuron_search import open_run
from kntools.editing.rome import rome_each
from kntools.plots import bar_chart
from kntools.prompts import Prompt
from kntools.report import choices
from kntools.report.choices import NotPossible, each_possible
from kntools.report.shown import Numbers, Picture, Shown, missing_notes, one_line, share, within
from kntools.report.study import Study

_TOKENS = 10  # that each text goes on by


@dataclass(frozen=True)
class Text:
    """A text that is continued, and what its continuation begins with if the edit is consistent."""

    group: str
    text: str
    begins: str


@dataclass(frozen=True)
class Example:
    """One edit of figure 10."""

    prompt: Prompt
    target: str
    texts: tuple[Text, ...]

    @property
    def name(self) -> str:
        return f"{self.prompt.text}: {self.prompt.target.strip()} → {self.target.strip()}"


EXAMPLES = (
    Example(
        Prompt("The capital of Canada is", " Ottawa", subject="Canada"), " Rome",
        (
            Text("edited", "The capital of Canada is", "Rome"),
            Text("symmetric", "Rome is the capital of", "Canada"),
            Text("unrelated", "The capital of France is", "Paris"),
        ),
    ),
    Example(
        Prompt("To treat my toothache, I should see a", " dentist", subject="toothache"), " lawyer",
        (
            Text("edited", "To treat my toothache, I should see a", "lawyer"),
            Text("synonym", "To treat my tooth pain, I should see a", "lawyer"),
            Text("synonym", "To treat my odontalgia, I should see a", "lawyer"),
            Text("unrelated", "To repair my car, I should see a", "mechanic"),
        ),
    ),
    Example(
        Prompt("The authors near the taxi drivers", " are", subject="The authors"), " is",
        (
            Text("edited", "The authors near the taxi drivers", "is"),
            Text("same subject", "The authors near the dancers", "is"),
            Text("same rule", "The pilots near the taxi drivers", "is"),
            Text("same rule", "The pilots near the dancers", "is"),
        ),
    ),
)  # fmt: skip


def examples(study: Study) -> Shown:
    """Figure 10."""
    if study.masked:
        raise NotPossible("a masked model does not go on writing, and rank-one edits need one that does")
    c = study.second_moment
    folder = open_run(
        study.run("edit_examples"), "edit examples", study.model, layer=study.layer, c=c.title(), seed=study.seed,
        prepend_bos=study.prepend_bos, tokens=_TOKENS,
    )  # fmt: skip
    found = folder.each(
        EXAMPLES, key=lambda one: one.name, make=lambda one: _written(study, one), unit="edit", progress=study.progress
    )
    made = [(one, payload) for one, payload in zip(EXAMPLES, found, strict=True) if "rows" in payload]
    missing = {one.name: p["why"] for one, p in zip(EXAMPLES, found, strict=True) if "why" in p}
    if not made:
        raise NotPossible("; ".join(missing.values()))
    frame = pd.DataFrame([{"edit": one.name, **row} for one, payload in made for row in payload["rows"]])
    said, follows = frame[frame["group"] == "edited"]["follows"], _consequences(frame)["follows"]
    kept = frame[frame["group"] == "unrelated"]
    return Shown(
        f"The edited sentence goes on as it should in {share(int(said.sum()), len(said))} edits, what follows from it "
        f"in {share(int(follows.sum()), len(follows))} texts; unrelated texts go on exactly as before in "
        f"{share(int((kept['before'] == kept['after']).sum()), len(kept))}.",
        n=f"{len(made)} edits, {len(frame)} texts",
        parts=[
            Numbers("figure-10", f"The model's own continuations, {_TOKENS} tokens, before and after each edit. "
                    "begins: how the text goes on if the edit is consistent; follows: whether it does.", frame)
        ],
        notes=[
            f"Rank-one edits in layer {study.layer}, with a second moment of {c.count:,} tokens that the model wrote.",
            *(f"{one.name}: {text}." for one, payload in made for text in payload["warnings"]),
            *missing_notes(missing),
        ],
    )  # fmt: skip


def _written(study: Study, one: Example) -> dict[str, Any]:
    """Continuations before and after one edit, or why it cannot be made."""
    try:
        [edit] = rome_each(
            study.model, [one.prompt], [one.target], layer=study.layer, second_moment=study.second_moment,
            seed=study.seed, prepend_bos=study.prepend_bos, max_rows=study.max_rows,
        )  # fmt: skip
    except (ValueError, FloatingPointError) as error:
        return {"why": str(error).split(";")[0]}
    texts: dict[str, list[str]] = {}
    for text in one.texts:
        texts.setdefault(text.group, []).append(text.text)
    frame = edit_examples(study.model, edit, texts, tokens=_TOKENS, prepend_bos=study.prepend_bos).to_frame()
    begins = {text.text: text.begins for text in one.texts}
    frame["begins"] = frame["text"].map(begins)
    frame["follows"] = [a.strip().startswith(b) for a, b in zip(frame["after"], frame["begins"], strict=True)]
    frame[["before", "after"]] = frame[["before", "after"]].map(one_line)
    return {"rows": frame.to_dict("records"), "warnings": list(edit.warnings())}


def _consequences(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[~frame["group"].isin(["edited", "unrelated"])]


#: Data set -> its scores that are shown: name in the table of `EditConsistency` -> name in the figure.
SCORES = {
    "P36": {
        "reliability, exact": "reliability", "symmetry, exact": "symmetry", "old direction gone": "old reverse gone",
    },
    "P101": {"reliability, exact": "reliability", "synonym, exact": "synonym"},
    "counterfact": {"efficacy": "efficacy", "paraphrase": "paraphrase", "neighborhood": "neighborhood"},
}  # fmt: skip


def consistency(study: Study) -> Shown:
    """Figure 11."""
    found, missing = each_possible(SCORES, lambda what: _edited(study, what))
    frame = pd.concat([one.to_frame().assign(data=what) for what, one in found.items()], ignore_index=True)
    frame.insert(0, "data", frame.pop("data"))
    method = next(name for name in frame["method"] if name != "before")
    return Shown(
        f"Edits by {method}. " + " ".join(_scores_in_words(frame, what, method) for what in found),
        n=", ".join(f"{len(one.cases)} edits of {what}" for what, one in found.items()),
        parts=[
            Picture(
                "figure-11", "Scores before and after edits", _bars(frame),
                "reliability: the new answer is said. symmetry: after “the capital of s is t”, “t is the capital of” "
                "gives s; old reverse gone: the old capital no longer does. synonym: the occupation follows the field "
                "of work. efficacy, paraphrase: the new answer is more probable than the old one; neighborhood: other "
                "subjects keep theirs. Thin lines are 95 % bootstrap intervals over edits.",
                min_width=720,
            ),
            Numbers("figure-11", "All scores; known: of facts of which the model knew what the score is about.", frame),
        ],
        notes=[_how(study), *_left_out(found), *missing_notes(missing)],
    )  # fmt: skip


def _edited(study: Study, what: str) -> EditConsistency:
    if what == "counterfact" and study.masked:
        raise NotPossible("its sentences have no mask")
    size = study.size
    among = None if study.masked else size.among  # a masked one can be asked for few: all their answers are one token
    cases = study.choose(
        f"cases/{what}",
        lambda: make_cases(study.model, what, size.edits, seed=study.seed, prepend_bos=study.prepend_bos, among=among),
        choices.read_case,
    )
    if not cases:
        raise NotPossible("there is no fact that this model can be asked both ways")
    settings = {"layer": study.layer, "second_moment": None if study.masked else study.second_moment.title()}
    try:
        return edit_consistency(
            study.model, cases, _methods(study), run=study.run(f"edit_consistency_{what}"), settings=settings,
            generations=0 if study.masked else size.generations, seed=study.seed, prepend_bos=study.prepend_bos,
            progress=study.progress,
        )  # fmt: skip
    except NoCaseLeft as why:
        raise NotPossible(str(why)) from why


def _methods(study: Study) -> dict[str, Method]:
    bos = study.prepend_bos
    if study.masked:
        return {"values": values_method(prepend_bos=bos)}
    known = {
        "rome": rome_method(study.layer, study.second_moment, seed=study.seed, prepend_bos=bos),
        "fine-tuning": fine_tune_method(study.layer, prepend_bos=bos),
    }
    return {name: known[name] for name in study.size.methods}


def _how(study: Study) -> str:
    if study.masked:
        return "Rank-one edits need a causal model; here five neurons' value slots are edited (Dai et al. 2022)."
    c = study.second_moment
    return f"Edits in layer {study.layer}; rank-one ones with a second moment of {c.count:,} tokens of the model's own."


def _scores_in_words(frame: pd.DataFrame, what: str, method: str) -> str:
    some = frame[(frame["data"] == what) & (frame["condition"] == "all")]
    before, after = (some[some["method"] == m].set_index("score").to_dict("index") for m in ("before", method))
    told = [
        f"{name} {within(r['value'], r['low'], r['high'], 2)} (before {before[score]['value']:.2f})"
        for score, name in SCORES[what].items()
        if (r := after.get(score))
    ]
    return f"{what}: {', '.join(told)}."


def _bars(frame: pd.DataFrame) -> Any:
    """The scores that are shown, by their data set and short name."""
    names = {(what, score): f"{what}: {name}" for what, some in SCORES.items() for score, name in some.items()}
    labels = [names.get(key) for key in zip(frame["data"], frame["score"], strict=True)]
    chosen = frame.assign(score=labels).dropna(subset="score").query("condition == 'all'")
    figure = bar_chart(
        chosen,
        "score",
        "value",
        low="low",
        high="high",
        color="method",
        hover_data=["n"],
        labels={"score": "", "value": "score"},
    )
    return figure.update_yaxes(range=[0, 1.05])


def _left_out(found: dict[str, EditConsistency]) -> list[str]:
    return [f"Left out of {what}: {n}, {why}." for what, one in found.items() for why, n in one.skipped.items()]
