"""Figure 11: does an edit change what follows from it, and nothing else?

    python -m kntools.analyses.fig11_edit_consistency counterfact --layer 3 --second-moment C3.safetensors --out results/counterfact
    python -m kntools.analyses.fig11_edit_consistency P36 --methods rome --layer 3 --second-moment C3.safetensors --out results/P36

`--out` names the files to write (`.csv`, `.json`, `.html`); `--run` a folder from which a killed run goes on.
"""  # noqa: E501 - commands

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kntools.analyses import command
from kntools.analyses.edit_cases import Case, make_cases
from kntools.analyses.edit_methods import Method, fine_tune_method, rome_method, values_method
from kntools.analyses.edit_result import EditConsistency, Payload
from kntools.analyses.edit_scores import ask, continued, generation_entropy
from kntools.editing.second_moment import SecondMoment
from kntools.results.fingerprint import fingerprint
from kntools.results.result import load
from kntools.results.run_folder import RunFolder

SAYS_IT = "the model says the new answer already"
NO_EDIT = "{} cannot make this edit"


class NoCaseLeft(ValueError):
    """The model says every new answer already, or no method can edit any case."""


def edit_consistency(
    model: Any,
    cases: Sequence[Case],
    methods: Mapping[str, Method],
    *,
    run: str | Path | None = None,
    settings: Mapping[str, Any] | None = None,
    together: int = 8,
    generations: int = 0,
    generation_tokens: int = 30,
    generation_rows: int = 4,
    seed: int = 0,
    prepend_bos: bool | None = None,
    progress: bool = True,
) -> EditConsistency:
    """Edit each case by each method, ask its questions, undo the edit.

    ```python
    cases = counterfact_cases(model, kn.data.counterfact(limit=100, known_only=model))
    result = edit_consistency(model, cases, {"rome": rome_method(3, C), "fine-tuning": fine_tune_method(3)})
    result.to_frame()
    ```

    Arguments:
        cases: from `counterfact_cases`, `symmetric_cases` or `synonym_cases`. One whose new answer is what the model
            says already is left out, and counted; so is one that a method cannot edit (the run folder says why).
        methods: name -> how to make edits; see `kntools.analyses.edit_methods`.
        run: a folder that keeps every finished item. Called again with the same arguments, the function goes on from
            there, also after the process was killed; items of another model or of other `settings` are refused.
        settings: what is worth writing down of the methods (layer, second moment). Methods are functions, and cannot
            be compared themselves.
        together: how many cases are edited in shared passes, each from the unedited model; one item of the run.
        generations: of so many first cases the entropy of generated text is measured: `generation_rows` continuations
            of `generation_tokens` tokens, drawn with `seed`.
        prepend_bos: as in `encode`.
        progress: show a bar.

    Returns:
        `EditConsistency`.

    Raises:
        ValueError: no cases, or none left (`NoCaseLeft`), or a run folder of another run.
        RuntimeError: in the end the weights are not what they were, bit by bit.
    """
    if not cases or not methods or "before" in methods:
        raise ValueError("give at least one case and one method; 'before' is the name of the unedited model")
    clean = fingerprint(model)
    keys = [case.key for case in cases]
    if len(set(keys)) != len(keys):
        raise ValueError("two cases have the same key; give each case once")
    written = {
        **(settings or {}), "methods": list(methods), "together": together, "generations": generations,
        "generation_tokens": generation_tokens, "generation_rows": generation_rows, "seed": seed,
        "prepend_bos": prepend_bos,
    }  # fmt: skip
    folder = RunFolder(run, kind="edit consistency", model=model, settings=written)
    entropy_of = set(keys[:generations])

    def said(case: Case) -> dict[str, Any]:
        return _said(model, case, generation_tokens, generation_rows, seed, prepend_bos, case.key in entropy_of)

    first = folder.each(cases, key=lambda c: f"before/{c.key}", make=said, unit="case", progress=progress)
    before = {case.key: payload for case, payload in zip(cases, first, strict=True)}
    kept = [case for case in cases if not _says_it(before[case.key])]
    # What is edited in shared passes is one item: its last bits may depend on the company.
    parts = [(name, tuple(kept[i : i + together])) for i in range(0, len(kept), together) for name in methods]
    found = folder.each(
        parts,
        key=lambda part: f"{part[0]}/{'/'.join(case.key for case in part[1])}",
        make=lambda part: _edited(model, methods[part[0]], part[1], said),
        unit="part",
        progress=progress,
    )
    after: dict[str, dict[str, Payload]] = {name: {} for name in methods}
    for (name, some), payloads in zip(parts, found, strict=True):
        after[name] |= {case.key: payload for case, payload in zip(some, payloads, strict=True)}
    if fingerprint(model, fresh=True) != clean:
        raise RuntimeError("the weights are not what they were before the evaluation; load the model anew")
    skipped = Counter({SAYS_IT: len(cases) - len(kept)})
    for name in methods:
        skipped[NO_EDIT.format(name)] = sum("error" in payload for payload in after[name].values())
    # All methods are compared on the same cases.
    done = [case.key for case in kept if not any("error" in after[name][case.key] for name in methods)]
    if not done:
        raise NoCaseLeft(f"no case is left: {dict(+skipped)}")
    return EditConsistency(
        cases=tuple(done),
        before=tuple(before[key] for key in done),
        after={name: tuple(after[name][key] for key in done) for name in methods},
        skipped=dict(+skipped),
        header=folder.header,
    )


def _edited(model: Any, method: Method, cases: Sequence[Case], said: Callable[[Case], Any]) -> list[Any]:
    """What the model says to each case after its own edit, or the error of one that cannot be made."""
    try:
        edits = method(model, [case.prompt for case in cases], [case.target for case in cases])
    except (ValueError, FloatingPointError) as error:
        if len(cases) == 1:
            return [{"error": str(error)}]
        # One of them: the others are edited all the same.
        return [payload for case in cases for payload in _edited(model, method, [case], said)]
    payloads = []
    for case, edit in zip(cases, edits, strict=True):
        with edit.applied(model):
            payloads.append(said(case))
    return payloads


def _said(
    model: Any, case: Case, tokens: int, rows: int, seed: int, prepend_bos: bool | None, generate: bool
) -> dict[str, Any]:
    """What the model, as it is now, answers to a case."""
    answers: dict[str, list[dict[str, Any]]] = {}
    found = ask(model, case.questions, prepend_bos=prepend_bos)
    for question, answer in zip(case.questions, found, strict=True):
        answers.setdefault(question.role, []).append(asdict(answer))
    entropy = None
    if generate and case.generation is not None:
        texts = continued(model, case.generation, tokens=tokens, rows=rows, seed=seed, prepend_bos=prepend_bos)
        entropy = sum(generation_entropy(ids) for ids in texts) / len(texts)
    return {"answers": answers, "entropy": entropy}


def _says_it(before: Payload) -> bool:
    return any(a["exact"] for role in ("rewrite new", "forward new") for a in before["answers"].get(role, []))


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the top of the module."""
    parser = command.parser("edit_consistency", "Figure 11.")
    add = parser.add_argument
    add("what", choices=("counterfact", "P36", "P1376", "P101"))
    add("--layer", type=int, required=True, help="the layer to edit; see kntools.analyses.layer_choice")
    add("--second-moment", type=Path, help="C of that layer, as second_moment saved it (default: C = I)")
    add("--methods", nargs="*", default=["rome", "fine-tuning", "values"], choices=("rome", "fine-tuning", "values"))
    add("--limit", type=int, default=100)
    add("--steps", type=int, default=20, help="of the value optimisation")
    add("--generations", type=int, default=0, help="measure the entropy of generated text on so many cases")
    o = parser.parse_args(argv)
    found = evaluate(
        command.load(o), o.what, layer=o.layer, second_moment=o.second_moment, methods=o.methods, limit=o.limit,
        steps=o.steps, generations=o.generations, seed=o.seed, prepend_bos=o.bos, run=o.run,
    )  # fmt: skip
    command.write(found, o.out)
    print(found)


def evaluate(
    model: Any,
    what: str,
    *,
    layer: int,
    second_moment: Path | None = None,
    methods: Sequence[str] = ("rome", "fine-tuning", "values"),
    limit: int = 100,
    steps: int = 20,
    generations: int = 0,
    seed: int = 0,
    prepend_bos: bool | None = None,
    run: Path | None = None,
    progress: bool = True,
) -> EditConsistency:
    """One of the four data sets by name, with the methods by name: what the command lines call."""
    c = None if second_moment is None else load(second_moment, SecondMoment)
    known: dict[str, Method] = {
        "rome": rome_method(layer, c, steps=steps, seed=seed, prepend_bos=prepend_bos),
        "fine-tuning": fine_tune_method(layer, prepend_bos=prepend_bos),
        "values": values_method(prepend_bos=prepend_bos),
    }
    unknown = [name for name in methods if name not in known]
    if unknown:
        raise ValueError(f"unknown methods {unknown}; there are {list(known)}")
    cases = make_cases(model, what, limit, seed=seed, prepend_bos=prepend_bos)
    settings = {"what": what, "layer": layer, "steps": steps, "second_moment": None if c is None else c.title()}
    return edit_consistency(
        model, cases, {name: known[name] for name in methods}, run=run, settings=settings, generations=generations,
        seed=seed, prepend_bos=prepend_bos, progress=progress,
    )  # fmt: skip


if __name__ == "__main__":
    main()
