"""What `emmet`, `memit` and `alpha_edit` return: an edit of many facts, solved together."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from kntools.editing.changes import Change, Constraints
from kntools.editing.rank_one import LOW_PROBABILITY, Step
from kntools.editing.second_moment import unprotected
from kntools.editing.weight_edits import WeightEdit
from kntools.prompts import Prompt
from kntools.results.result import Figure


@dataclass(frozen=True, eq=False, repr=False)
class JointEdit(WeightEdit):
    """An edit of many facts in one layer or several.

    ```python
    edit = kn.emmet(model, prompts, [" Rome", " Oslo"], layers=[5])
    edit.before, edit.after               # [edit]: probability of each target
    with edit.applied(model): ...
    ```

    `constraints` holds, per layer, the keys of the facts and the required changes.
    """

    method: str  # emmet, memit, alpha_edit
    changes: tuple[Change, ...]
    constraints: tuple[Constraints, ...]
    ridges: tuple[float, ...]  # of each layer's solution
    prompts: tuple[Prompt, ...]
    targets: tuple[str, ...]
    steps: tuple[tuple[Step, ...], ...]  # of each fact's search for its value
    before: tuple[float, ...]  # probability of each target after its bare prompt
    after: tuple[float, ...]
    provenance: dict[str, Any]

    def warnings(self) -> list[str]:
        """Signs that the edit failed or changes other answers; empty if there are none."""
        found = []
        if not self.provenance["settings"]["second_moments"]:
            found.append(unprotected("second_moments", [c.layer for c in self.changes], len(self.changes[0].update)))
        failed = [p.text for p, after in zip(self.prompts, self.after, strict=True) if after < LOW_PROBABILITY]
        if failed:
            found.append(
                f"the targets of {len(failed)} of {len(self.prompts)} facts have a probability below {LOW_PROBABILITY} "
                f"after the edit, e.g. that of {failed[0]!r}. Try an earlier layer, more steps, or a smaller "
                "regularisation"
            )
        return found

    def to_frame(self) -> pd.DataFrame:
        """One row per fact: `prompt, target, before, after, steps, loss`."""
        return pd.DataFrame(
            {
                "prompt": [p.text for p in self.prompts],
                "target": list(self.targets),
                "before": list(self.before),
                "after": list(self.after),
                "steps": [len(curve) for curve in self.steps],
                "loss": [curve[-1].loss for curve in self.steps],
            }
        )

    def plot(self, **look: Any) -> Figure:
        """The probability of each target before and after the edit."""
        from kntools.plots.charts import bar_chart

        frame = self.to_frame().melt(["prompt", "target"], ["before", "after"], "edit", "probability")
        figure = bar_chart(frame, "prompt", "probability", **{"color": "edit", "title": self.title(), **look})
        return figure.update_yaxes(range=[0, 1.05])

    def title(self) -> str:
        facts = "1 fact" if len(self.prompts) == 1 else f"{len(self.prompts)} facts"
        return f"{self.method} of {facts} in " + ", ".join(f"L{c.layer}" for c in self.changes)
