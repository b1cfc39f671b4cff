"""Figure 8: how many predictions does an edit of neurons overturn?"""

from __future__ import annotations

import pandas as pd

from kntools.analyses.comparisons import share_interval
from kntools.analyses.prompt_groups import is_relation
from kntools.analyses.reliability import reliability as measure
from kntools.prompts import Prompt
from kntools.report import choices
from kntools.report.choices import each_possible
from kntools.report.shown import Numbers, Picture, Shown, missing_notes, percent, share
from kntools.report.study import Study


def reliability(study: Study) -> Shown:
    """Figure 8."""
    prompts, missing = each_possible((study.paradigms[0], *study.relations), lambda source: _judged(study, source))
    found = measure(
        study.model, prompts, settings=study.search, seed=study.seed, run=study.run("reliability"),
        progress=study.progress,
    )  # fmt: skip
    frame, table = found.to_frame(), found.summary()
    return Shown(
        " ".join(_most_overturned(frame, kind) for kind in ("pair", "fact") if (frame["kind"] == kind).any()),
        n=", ".join(f"{n} of {source}" for source, n in table.groupby("source", sort=False)["n"].first().items()),
        parts=[
            Picture(
                "figure-8", "Predictions overturned", found.plot(),
                "Edits of the five leading neurons of each prompt, beside the same edits of random neurons of the same "
                "layers. suppress: activations to 0; enhance: doubled; erase: the neurons' output weights to 0; "
                "values: output weights turned towards another answer. Thin lines are Wilson's 95 % intervals.",
                min_width=max(560, 200 * len(prompts)),
            ),
            Numbers("figure-8", "Shares overturned, with McNemar's exact test against random neurons, Holm-corrected.",
                    table),
            Numbers("figure-8-prompts", "Every prompt and edit.", frame),
        ],
        notes=missing_notes(missing),
    )  # fmt: skip


def _judged(study: Study, source: str) -> list[Prompt]:
    limit = study.size.judged_facts if is_relation(source) else study.size.judged_pairs
    return study.choose(
        f"judged/{source}",
        lambda: choices.judged(study.model, source, limit, study.seed, study.prepend_bos),
        choices.read_prompt,
    )


def _most_overturned(frame: pd.DataFrame, kind: str) -> str:
    """Of all edits the one that overturns the most."""
    some = frame[frame["kind"] == kind]
    counts = {
        str(edit): (int(of["overturned"].sum()), int(of["random"].sum()), len(of))
        for edit, of in some.groupby("edit", sort=False)
    }
    edit, (ours, theirs, of) = max(counts.items(), key=lambda item: item[1][0])
    what = "minimal pairs" if kind == "pair" else "facts"
    if ours == 0:
        high = share_interval(0, of)[1]
        return f"Of {of} {what} no edit overturns a single one (95 % interval up to {percent(high)})."
    return (
        f"Of {what} the edit that overturns the most ({edit}) overturns {share(ours, of)}, the same edit of random "
        f"neurons {share(theirs, of)}."
    )
