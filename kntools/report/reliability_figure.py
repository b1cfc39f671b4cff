"""Figure 8: how many predictions does an edit of neurons overturn?"""

from __future__ import annotations

import pandas as pd

from kntools.analyses.fig08_reliability import reliability as measure
from kntools.analyses.prompt_groups import is_relation
from kntools.prompts import Prompt
from kntools.report import choices
from kntools.report.choices import each_possible
from kntools.report.shown import Numbers, Picture, Shown, missing_notes, share
from kntools.report.study import Study

_NAMES = {"pair": "minimal pairs", "fact": "facts"}


def reliability(study: Study) -> Shown:
    """Figure 8."""
    prompts, missing = each_possible((study.paradigms[0], *study.relations), lambda source: _judged(study, source))
    found = measure(
        study.model, prompts, settings=study.search, seed=study.seed, run=study.run("reliability"),
        progress=study.progress,
    )  # fmt: skip
    frame, table = found.to_frame(), found.summary()
    kinds = [kind for kind in _NAMES if (frame["kind"] == kind).any()]
    worst = {kind: _worst(frame[frame["kind"] == kind]) for kind in kinds}
    return Shown(
        f"Of all edits the worst overturns {' and '.join(f'{share(*worst[k][1:3])} {_NAMES[k]}' for k in kinds)}.",
        details=[_beside_random(*worst[kind], _NAMES[kind]) for kind in kinds],
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


def _worst(frame: pd.DataFrame) -> tuple[str, int, int, int]:
    """The edit that overturns the most: its name, how many, of how many, and how many at random neurons."""
    counts = [
        (str(edit), int(some["overturned"].sum()), len(some), int(some["random"].sum()))
        for edit, some in frame.groupby("edit", sort=False)
    ]
    return max(counts, key=lambda one: one[1])


def _beside_random(edit: str, ours: int, of: int, theirs: int, what: str) -> str:
    if ours == 0:
        return f"Of {of} {what} no edit overturns a single one."
    return (
        f"Of {what} it is the edit {edit} that overturns the most, {share(ours, of)}; of random neurons it overturns "
        f"{share(theirs, of)}."
    )
