"""Figure 10: what a model writes before and after an edit, on the edited fact and around it."""

from collections.abc import Mapping, Sequence
from typing import Any

from kntools.arguments import check_list, instance, shown
from kntools.editing.weight_edits import WeightEdit
from kntools.engine.generation import generate
from kntools.results.table import Table


class EditExamples(Table):
    """One row per text: `group, text, before, after`, continued by the unedited and by the edited model."""

    def describe(self) -> str:
        return str(self.details["edit"])


def edit_examples(
    model: Any, edit: WeightEdit, texts: Mapping[str, Sequence[str]], *, max_new_tokens: int = 12
) -> EditExamples:
    """Continue texts with the most probable tokens, before and after an edit, which is applied and undone.

    ```python
    texts = {"edited": ["The capital of Canada is"], "unrelated": ["The capital of France is"]}
    edit_examples(model, edit, texts, max_new_tokens=12)
    ```
    """
    instance("edit", edit, WeightEdit, "kn.rome(model, prompt, ' Rome', layer=8)")
    example = "{'edited': ['The capital of Canada is']}"
    if not isinstance(texts, Mapping):
        raise TypeError(f"texts={shown(texts)}; pass e.g. {example}")
    for group, listed in texts.items():
        check_list(f"texts of {group!r}", listed, str, example, least=0)
    asked = [(group, text) for group, listed in texts.items() for text in listed]
    if not asked:
        raise ValueError(f"no texts given; pass e.g. {example}")
    before = generate(model, [text for _, text in asked], max_new_tokens=max_new_tokens)
    with edit.applied(model):
        after = generate(model, [text for _, text in asked], max_new_tokens=max_new_tokens)
    rows = [
        {"group": group, "text": text, "before": old, "after": new}
        for (group, text), old, new in zip(asked, before, after, strict=True)
    ]
    return EditExamples.of(rows, edit.provenance, edit=edit.title())
