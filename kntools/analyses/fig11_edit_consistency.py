"""Figure 11: does an edit change what follows from it, and nothing else?"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from kntools.analyses.edit_cases import Case
from kntools.analyses.edit_measures import Continuations, measure, neighbour_logits
from kntools.analyses.edit_methods import Method, Moments, chosen_editors, edit_each, same_weights, settings_of
from kntools.analyses.edit_result import SCORES, EditConsistency, Payload
from kntools.analyses.neuron_search import local_seed, open_run
from kntools.arguments import check_distinct, check_list, whole
from kntools.editing.rome_value import shared_values
from kntools.editing.weight_edits import WeightEdit
from kntools.engine.texts import chunks

SAYS_IT = "the new answer is already the model's answer"


class NoCaseLeft(ValueError):
    """The model says every new answer already, or no method can edit any case."""


def edit_consistency(
    model: Any,
    cases: Sequence[Case],
    methods: Mapping[str, Method] | Sequence[str] | None = None,
    *,
    layer: int | None = None,
    second_moment: Moments = None,
    continuations: Continuations | None = None,
    together: int = 8,
    run: str | Path | None = None,
) -> EditConsistency:
    """Edit each case by each method, and ask its questions under the edit (Niu et al. 2024, figure 11).

    ```python
    cases = make_cases(model, "counterfact", 100)
    result = edit_consistency(model, cases, ["rome", "emmet", "fine_tune"], layer=3, second_moment=C)
    result.to_frame(), result.plot()
    ```

    Arguments:
        cases: from `make_cases`. A case whose new answer is already the model's answer is left out, and counted; so is
            a case that a method cannot edit (the run has the reason).
        methods: names of `EDITORS` (`None`: all), made by `editors(model, methods, layer=..., second_moment=...)`; or
            name -> a function `(model, prompts, targets) -> edits`, such as those of `editors`.
        continuations: settings of generated text and perplexity; `None`: `Continuations()`.
        together: how many cases are edited in shared passes, each from the unedited model; one item of the run.

    Raises:
        ValueError: no cases, or none left (`NoCaseLeft`), or the file of another run.
        RuntimeError: in the end the weights are not what they were, bit by bit.
    """
    chosen = chosen_editors(model, methods, layer, second_moment)
    check_list("cases", cases, Case, "make_cases(model, 'counterfact', 100)")
    keys = [case.key for case in cases]
    check_distinct("case", keys)
    how, together = continuations or Continuations(), whole("together", together, least=1)
    written = {"methods": settings_of(chosen), "together": together, "continuations": asdict(how)}
    folder = open_run(run, "edit consistency", model, **written)
    drawn = {case.key for case in [case for case in cases if case.generation is not None][: how.cases]}
    content_of = {case.key: local_seed(case, case.key in drawn) for case in cases}

    def answers_before(part: Sequence[Case]) -> list[Payload]:
        found = zip(part, measure(model, part, how, drawn=drawn), strict=True)
        return [{**payload, "case": content_of[case.key]} for case, payload in found]

    # The parts of the same cases follow each other.
    neighbours_before = lru_cache(maxsize=1)(partial(neighbour_logits, model))

    def make(item: tuple[str, tuple[Case, ...]]) -> list[Payload]:
        name, part = item
        edits = edit_each(model, chosen[name], [case.prompt for case in part], [case.target for case in part])
        made = [case for case, edit in zip(part, edits, strict=True) if isinstance(edit, WeightEdit)]
        own = [edit for edit in edits if isinstance(edit, WeightEdit)]
        said = iter(measure(model, made, how, edits=own, drawn=drawn, unedited=neighbours_before(part)) if made else ())
        return [next(said) if isinstance(edit, WeightEdit) else {"error": edit} for edit in edits]

    answered = folder.together(cases, together, key=lambda case: f"before/{case.key}", make=answers_before, unit="case")
    before: dict[str, Payload] = dict(zip(keys, answered, strict=True))
    # Runs of earlier versions do not say what a case asked.
    if other := [key for key in keys if before[key].get("case", content_of[key]) != content_of[key]]:
        raise ValueError(
            f"{folder.path} is another run: {len(other)} of its cases have the same names and other contents, such as "
            f"{other[0]!r} (drawn with another seed?); name a new run"
        )
    # Those whose new answer the model does not say already.
    kept = [case for case in cases if not SCORES["reliability, exact"](before[case.key])]
    # What is edited and asked in shared passes is one item: its last bits may depend on the company.
    parts = [(name, tuple(part)) for part in chunks(kept, together) for name in chosen]
    with same_weights(model), shared_values():
        found = folder.each(
            parts, key=lambda part: f"{part[0]}/{'/'.join(case.key for case in part[1])}", make=make, unit="part"
        )
    after: dict[str, dict[str, Payload]] = {name: {} for name in chosen}
    for (name, part), payloads in zip(parts, found, strict=True):
        after[name] |= {case.key: payload for case, payload in zip(part, payloads, strict=True)}
    failed = {name: {key for key, payload in after[name].items() if "error" in payload} for name in chosen}
    counts = {f"{name} cannot make this edit": len(failed[name]) for name in chosen}
    skipped = dict(+Counter({SAYS_IT: len(cases) - len(kept), **counts}))
    # All methods are compared on the same cases.
    done = [case.key for case in kept if not any(case.key in keys for keys in failed.values())]
    if not done:
        errors = [f"{name}: {p['error']}" for name in chosen for p in after[name].values() if "error" in p]
        raise NoCaseLeft("; ".join([f"no case is left: {skipped}", *errors[:1]]))
    return EditConsistency(
        cases=tuple(done),
        before=tuple(before[key] for key in done),
        after={name: tuple(after[name][key] for key in done) for name in chosen},
        skipped=skipped,
        provenance=folder.header,
    )
