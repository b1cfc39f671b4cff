"""Figure 11: does an edit change what follows from it, and nothing else?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kntools.analyses.edit_cases import Case, EditData, make_cases
from kntools.analyses.edit_methods import Method, fine_tune_method, rome_method, values_method
from kntools.analyses.edit_result import EditConsistency, Payload, generation_entropy
from kntools.analyses.neuron_search import open_run
from kntools.editing.rome_settings import RomeSettings
from kntools.editing.second_moment import SecondMoment
from kntools.engine.answers import ask
from kntools.engine.generation import Drawing, continue_tokens
from kntools.prompts import text_tokens
from kntools.results.fingerprint import fingerprint

SAYS_IT = "the model says the new answer already"


class NoCaseLeft(ValueError):
    """The model says every new answer already, or no method can edit any case."""


@dataclass(frozen=True)
class Continuations:
    """Texts that the model draws, whose entropy shows whether it repeats itself (Meng et al. 2022, GE)."""

    cases: int = 0  # of so many first cases
    tokens: int = 30
    rows: int = 4  # texts per case
    top_k: int = 5  # drawn among so many most probable tokens
    seed: int = 0

    def entropy(self, model: Any, text: str) -> float:
        """The mean entropy of the continuations of a text."""
        draw = Drawing(temperature=1.0, top_k=self.top_k, seed=self.seed)
        drawn = continue_tokens(model, [text_tokens(model, text)] * self.rows, self.tokens, draw)
        return sum(generation_entropy(ids.tolist()) for ids in drawn) / self.rows


def edit_consistency(
    model: Any,
    cases: Sequence[Case],
    methods: Mapping[str, Method],
    *,
    continuations: Continuations | None = None,
    together: int = 8,
    run: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
) -> EditConsistency:
    """Edit each case by each method, ask its questions, undo the edit (Niu et al. 2024, figure 11).

    ```python
    cases = make_cases(model, "counterfact", 100)
    result = edit_consistency(model, cases, {"rome": rome_method(3, C), "fine-tuning": fine_tune_method(3)})
    result.to_frame()
    ```

    Arguments:
        cases: from `make_cases`. One whose new answer is what the model says already is left out, and counted; so is
            one that a method cannot edit (the run says why).
        methods: name -> how to make edits; see `kntools.analyses.edit_methods`.
        continuations: of which the entropy is measured; `None`: of none.
        together: how many cases are edited in shared passes, each from the unedited model; one item of the run.
        settings: what is worth writing down of the methods (layer, second moment): a run of other ones is refused, and
            methods are functions, which cannot be compared themselves.

    Raises:
        ValueError: no cases, or none left (`NoCaseLeft`), or the file of another run.
        RuntimeError: in the end the weights are not what they were, bit by bit.
    """
    if not cases or not methods or "before" in methods:
        raise ValueError("give at least one case and one method; 'before' is the name of the unedited model")
    clean = fingerprint(model, fresh=True)
    keys = [case.key for case in cases]
    if len(set(keys)) != len(keys):
        raise ValueError("two cases have the same key; give each case once")
    drawn = continuations or Continuations()
    written = {**(settings or {}), "methods": list(methods), "together": together, "continuations": asdict(drawn)}
    folder = open_run(run, "edit consistency", model, **written)
    continued = {case.key: case.generation for case in cases[: drawn.cases]}

    def say(case: Case) -> Payload:
        text = continued.get(case.key)
        return {"answers": _answers(model, case), "entropy": None if text is None else drawn.entropy(model, text)}

    answered = folder.each(cases, key=lambda case: f"before/{case.key}", make=say, unit="case")
    before: dict[str, Payload] = dict(zip(keys, answered, strict=True))
    kept = [case for case in cases if not _says_it(before[case.key])]
    # What is edited in shared passes is one item: its last bits may depend on the company.
    parts = [(name, tuple(kept[i : i + together])) for i in range(0, len(kept), together) for name in methods]
    found = folder.each(
        parts,
        key=lambda part: f"{part[0]}/{'/'.join(case.key for case in part[1])}",
        make=lambda part: _edit(model, methods[part[0]], part[1], say),
        unit="part",
    )
    after: dict[str, dict[str, Payload]] = {name: {} for name in methods}
    for (name, part), payloads in zip(parts, found, strict=True):
        after[name] |= {case.key: payload for case, payload in zip(part, payloads, strict=True)}
    if fingerprint(model, fresh=True) != clean:
        raise RuntimeError("the weights are not what they were before the evaluation; load the model anew")
    failed = {name: {key for key, payload in after[name].items() if "error" in payload} for name in methods}
    counts = {f"{name} cannot make this edit": len(failed[name]) for name in methods}
    skipped = dict(+Counter({SAYS_IT: len(cases) - len(kept), **counts}))
    # All methods are compared on the same cases.
    done = [case.key for case in kept if not any(case.key in keys for keys in failed.values())]
    if not done:
        raise NoCaseLeft(f"no case is left: {skipped}")
    return EditConsistency(
        cases=tuple(done),
        before=tuple(before[key] for key in done),
        after={name: tuple(after[name][key] for key in done) for name in methods},
        skipped=skipped,
        provenance=folder.header,
    )


def _edit(model: Any, method: Method, cases: Sequence[Case], say: Callable[[Case], Payload]) -> list[Payload]:
    """What the model says to each case after its own edit, or the error of one that cannot be made."""
    try:
        edits = method(model, [case.prompt for case in cases], [case.target for case in cases])
    except (ValueError, FloatingPointError) as error:
        if len(cases) == 1:
            return [{"error": str(error)}]
        # One of them: the others are edited all the same.
        return [payload for case in cases for payload in _edit(model, method, [case], say)]
    payloads = []
    for case, edit in zip(cases, edits, strict=True):
        with edit.applied(model):
            payloads.append(say(case))
    return payloads


def _answers(model: Any, case: Case) -> dict[str, list[dict[str, Any]]]:
    """How the model, as it is now, takes the answers of a case, by role."""
    found: dict[str, list[dict[str, Any]]] = {}
    answers = ask(model, [question.prompt for question in case.questions])
    for question, answer in zip(case.questions, answers, strict=True):
        taken = {"p": answer.probability, "first": answer.first, "exact": answer.exact}
        found.setdefault(question.role, []).append(taken)
    return found


def _says_it(before: Payload) -> bool:
    return any(a["exact"] for role in ("rewrite new", "forward new") for a in before["answers"].get(role, []))


def evaluate(
    model: Any,
    what: EditData,
    *,
    layer: int,
    second_moment: SecondMoment | None = None,
    settings: RomeSettings | None = None,
    methods: Sequence[str] = ("rome", "fine-tuning", "values"),
    limit: int = 100,
    seed: int = 0,
    **options: Any,
) -> EditConsistency:
    """One of the four data sets by name, with the methods by name; `options` are those of `edit_consistency`."""
    chosen = settings or RomeSettings.for_model(model)
    known: dict[str, Method] = {
        "rome": rome_method(layer, second_moment, chosen),
        "fine-tuning": fine_tune_method(layer),
        "values": values_method(),
    }
    unknown = [name for name in methods if name not in known]
    if unknown:
        raise ValueError(f"unknown methods {unknown}; there are {list(known)}")
    moment = second_moment and second_moment.title()
    written = {"what": what, "layer": layer, "rome": asdict(chosen), "seed": seed, "second_moment": moment}
    cases = make_cases(model, what, limit, seed=seed)
    return edit_consistency(model, cases, {name: known[name] for name in methods}, settings=written, **options)
