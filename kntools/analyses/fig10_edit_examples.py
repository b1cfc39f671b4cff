"""Figure 10: what a model writes before and after an edit, on the edited fact and around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from kntools.editing.weight_edits import WeightEdit
from kntools.engine.generation import generate
from kntools.results.result import Result

_SHOWN = 10  # examples, of three lines each


@dataclass(frozen=True)
class Example:
    """One text, continued by the model as it was and by the edited one."""

    group: str  # "edited", "symmetric", "synonym", "unrelated", or your own
    text: str
    before: str
    after: str


@dataclass(frozen=True, eq=False, repr=False)
class EditExamples(Result):
    """Generations around one edit.

    ```python
    print(examples)
    examples.to_frame()           # group, text, before, after
    ```
    """

    title: str
    examples: tuple[Example, ...]

    def to_frame(self) -> pd.DataFrame:
        return pd.DataFrame([vars(e) for e in self.examples], columns=["group", "text", "before", "after"])

    def __repr__(self) -> str:
        lines = [self.title]
        for e in self.examples[:_SHOWN]:
            lines += [f"  {e.group}: {e.text}", f"    before:{e.before!r}", f"    after: {e.after!r}"]
        more = [f"  ... and {len(self.examples) - _SHOWN} more"] if len(self.examples) > _SHOWN else []
        return "\n".join([*lines, *more])

    def describe(self) -> str:
        return self.title


def edit_examples(
    model: Any, edit: WeightEdit, texts: Mapping[str, Sequence[str]], *, max_new_tokens: int = 12
) -> EditExamples:
    """Continue texts with the most probable tokens, before and after an edit.

    ```python
    edit_examples(model, edit, {
        "edited": ["The capital of Canada is"],
        "symmetric": ["Rome is the capital of", "Ottawa is the capital of"],
        "unrelated": ["The capital of France is"],
    })
    ```

    Arguments:
        edit: applied and undone.
        texts: group -> texts; each ends where the model goes on.
        max_new_tokens: how many to write.

    Raises:
        ValueError: no texts; see also `kn.generate` and `WeightEdit.applied`.
    """
    groups = [group for group, listed in texts.items() for _ in listed]
    asked = [text for listed in texts.values() for text in listed]
    if not asked:
        raise ValueError("no texts given; pass e.g. {'edited': ['The capital of Canada is']}")
    before = generate(model, asked, max_new_tokens=max_new_tokens)
    with edit.applied(model):
        after = generate(model, asked, max_new_tokens=max_new_tokens)
    return EditExamples(edit.title(), tuple(map(Example, groups, asked, before, after)))
