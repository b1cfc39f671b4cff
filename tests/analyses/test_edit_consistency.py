"""Evaluations of edits: scores against counting by hand, runs that go on after a kill, every edit undone."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import kntools as kn
from kntools.analyses.edit_cases import Case, Question
from kntools.analyses.edit_measures import UNRELATED, Continuations
from kntools.analyses.edit_methods import fine_tune_method, rome_method, values_method
from kntools.analyses.edit_result import EditConsistency, generation_entropy
from kntools.analyses.fig11_edit_consistency import SAYS_IT, edit_consistency
from kntools.editing.rome_settings import RomeSettings
from kntools.engine.answers import ask
from kntools.engine.writing import Drawing, continue_tokens
from tests import zoo
from tests.long_runs import PROCESSES

CAPITALS = list(zoo.COUNTRIES.items())


def cases(count: int = 4) -> list[Case]:
    """The capital of each country becomes that of the next; the one after that is its neighbour."""
    made = []
    for n in range(count):
        (country, city), (_, new), (other, theirs) = (CAPITALS[(n + i) % len(CAPITALS)] for i in range(3))
        questions = [
            *(
                Question(f"rewrite {w}", f"The capital of {country} is", f" {a}")
                for w, a in (("new", new), ("true", city))
            ),
            *(Question(f"paraphrase {w}", f"Is {country} near", f" {a}") for w, a in (("new", new), ("true", city))),
            *(
                Question(f"neighborhood {w}", f"The capital of {other} is", f" {a}")
                for w, a in (("new", new), ("true", theirs))
            ),
        ]
        prompt = kn.Prompt(f"The capital of {country} is", f" {city}", subject=country)
        made.append(Case(f"case {n}", prompt, f" {new}", tuple(questions), f"{country} is"))
    return made


# What is asked beside the questions takes longer than these: none of it, or little.
ALONE, SHORT = Continuations(answer=0, unrelated=()), Continuations(answer=2, unrelated=UNRELATED[:1])
METHODS = {
    "rome": rome_method(1, settings=RomeSettings(steps=3, templates=["{}"])),
    "fine-tuning": fine_tune_method(1, steps=2),
    "values": values_method(3),
}


@pytest.mark.parametrize("name", zoo.CAUSAL)
def test_answers_are_those_of_whole_runs(name: str) -> None:
    model = zoo.tiny(name)
    questions = [
        Question("a", text, answer)
        for text in ("The capital of Canada is", "Is Japan near", "Ottawa is the capital of the quick brown fox and")
        for answer in (" Rome", " Ouagadougou", " the lazy dog")
    ]
    near = kn.encode(model, kn.Prompt("Is Japan near", " Rome"))
    [says] = (new.tolist() for new in continue_tokens(model, list(near.tokens), 2, Drawing()))
    best = model.tokenizer.decode(says)
    if tuple(model.tokenizer(best, add_special_tokens=False)["input_ids"]) == tuple(says) and best[0] == " ":
        questions.append(Question("a", "Is Japan near", best))
    for question, found in zip(questions, ask(model, [q.prompt for q in questions]), strict=True):
        e = kn.encode(model, kn.Prompt(question.text, question.answer, multi_token="sum"))
        log_p = model(e.tokens)[0, list(e.positions)].detach().log_softmax(-1)
        p = float(log_p[range(len(e.target_ids)), list(e.target_ids)].sum().exp())
        right = (log_p.argmax(-1) == torch.tensor(e.target_ids)).tolist()
        assert found.probability == pytest.approx(p, abs=1e-5, rel=1e-3)
        assert (found.first, found.exact) == (right[0], all(right))


def test_scores_are_what_counting_by_hand_gives(tmp_path: Path) -> None:
    model = zoo.fresh("llama")
    digest = zoo.bits(model)
    result = edit_consistency(model, cases(), METHODS, continuations=replace(SHORT, cases=2, tokens=6, rows=2))
    assert zoo.bits(model) == digest
    assert result.methods == ["before", *METHODS] and len(result.cases) + sum(result.skipped.values()) == 4

    def p(text: str, answer: str) -> float:
        e = kn.encode(model, kn.Prompt(text, answer))
        return float(model(e.tokens)[0, -1].detach().softmax(-1)[e.target_ids[0]])

    by_hand: dict[str, list[float]] = {"efficacy": [], "paraphrase magnitude": [], "neighborhood": []}
    for case in (c for c in cases() if c.key in result.cases):
        [edit] = METHODS["rome"](model, [case.prompt], [case.target])
        with edit.applied(model):
            rewrite, rephrased, near = ([p(q.text, q.answer) for q in case.questions[i : i + 2]] for i in (0, 2, 4))
        by_hand["efficacy"].append(float(rewrite[0] > rewrite[1]))
        by_hand["paraphrase magnitude"].append(rephrased[0] - rephrased[1])
        by_hand["neighborhood"].append(float(near[1] > near[0]))
    for score, values in by_hand.items():
        assert result.scores("rome", score) == pytest.approx(values, abs=1e-5)
        assert result.value("rome", score) == pytest.approx(sum(values) / len(values), abs=1e-5)
    frame = result.to_frame()
    entropy = frame[(frame["score"] == "generation entropy") & (frame["method"] == "rome")]
    assert entropy["n"].item() == 2 and 0 < entropy["value"].item() < 4
    assert set(frame["condition"]) == {"all"} and re.search("efficacy magnitude +4", repr(result))
    assert len(result.plot().data) == 4
    assert len((result.save(tmp_path / "scores.csv")).read_text().splitlines()) == len(frame) + 1
    with pytest.raises(ValueError, match="there are"):
        result.scores("rome", "luck")


def payload(entropy: float | None = None, **answers: list[tuple[float, bool, bool]]) -> dict[str, Any]:
    said = {
        role.replace("_", " "): [{**dict(zip(("p", "first", "exact"), a, strict=True)), "tokens": a[2]} for a in some]
        for role, some in answers.items()
    }
    return {"answers": said, "entropy": entropy}


def test_symmetry_scores_raw_and_known() -> None:
    yes, no = (0.9, True, True), (0.1, False, False)
    befores = (
        payload(forward_true=[yes], reverse_old=[yes], reverse_new_before=[yes]),
        payload(forward_true=[no], reverse_old=[yes], reverse_new_before=[yes]),
        payload(forward_true=[yes], reverse_old=[no], reverse_new_before=[no]),  # the fact, but not its reverse
    )
    afters = (
        payload(forward_new=[yes], reverse_new=[no], reverse_old=[yes]),
        payload(forward_new=[(0.5, True, False)], reverse_new=[yes], reverse_old=[no]),
        payload(forward_new=[yes], reverse_new=[yes], reverse_old=[no]),
    )
    result = EditConsistency(("a", "b", "c"), befores, {"rome": afters}, {}, {"model": "hand-made"})
    expected = {
        "reliability, exact": (2 / 3, 1.0),
        "reliability, first": (1.0, 1.0),
        "reliability, p": (2.3 / 3, 0.9),
        "symmetry, exact": (2 / 3, 0.0),
        "old direction gone": (2 / 3, 0.0),
        "old direction, p": (1.1 / 3, 0.9),
    }
    for score, (raw, known) in expected.items():
        assert result.value("rome", score) == pytest.approx(raw)
        assert result.value("rome", score, known=True) == pytest.approx(known)
    frame = result.to_frame()
    assert set(frame["condition"]) == {"all", "known"}
    known = frame[(frame["condition"] == "known") & (frame["method"] == "rome")].set_index("score")["n"]
    assert known["reliability, exact"] == 2 and known["symmetry, exact"] == known["old direction gone"] == 1
    assert "efficacy" not in set(frame["score"])


def test_entropy_by_hand() -> None:
    assert generation_entropy([1, 1, 1, 1]) == 0
    # bigrams 12 23 31 12: entropies 1.5 of {2, 1, 1}; trigrams 123 231 312: log2 3
    assert generation_entropy([1, 2, 3, 1, 2]) == pytest.approx((2 / 3 * 1.5 + 4 / 3 * 1.5849625) / 2)
    assert generation_entropy([]) == 0


def test_a_case_that_the_model_says_already_is_left_out() -> None:
    model = zoo.tiny("llama")
    [case] = cases(1)
    said = model.tokenizer.decode([int(model(kn.encode(model, case.prompt).tokens)[0, -1].argmax())])
    same = Case("same", case.prompt, said, (Question("rewrite new", case.prompt.text, said),))
    result = edit_consistency(model, [case, same], {"rome": METHODS["rome"]}, continuations=ALONE)
    assert result.cases == ("case 0",) and result.skipped == {SAYS_IT: 1}


def test_a_case_that_a_method_cannot_edit_is_left_out_of_all() -> None:
    model = zoo.tiny("llama")
    some = cases(3)
    odd = Case("odd", kn.Prompt("It is", " Rome"), " Paris", some[0].questions)  # no subject: nothing for ROME
    both = {"rome": METHODS["rome"], "ft": METHODS["fine-tuning"]}
    found = edit_consistency(model, [some[0], odd, *some[1:]], both, continuations=ALONE)
    alone = edit_consistency(model, some, {"rome": METHODS["rome"]}, continuations=ALONE)
    assert found.cases == alone.cases and found.skipped == {"rome cannot make this edit": 1}
    score = "efficacy magnitude"
    assert found.scores("rome", score) == pytest.approx(alone.scores("rome", score), abs=1e-5)
    assert len(found.after["ft"]) == 3
    with pytest.raises(ValueError, match="no case is left"):
        edit_consistency(model, [odd], {"rome": METHODS["rome"]}, continuations=ALONE)


def test_some_of_the_cases() -> None:
    """What was measured together is of each part what the part alone gives; its name tells a case, not its place."""
    model, every = zoo.tiny("llama"), cases(3)
    method = {"values": METHODS["values"]}
    whole = edit_consistency(model, every, method, continuations=SHORT)
    last = whole.part([every[2].key])
    alone = edit_consistency(model, every[2:], method, continuations=SHORT)
    assert last.cases == (every[2].key,) == alone.cases and last.skipped == whole.skipped
    pd.testing.assert_frame_equal(last.to_frame(), alone.to_frame(), rtol=1e-3)
    assert whole.part([]).to_frame().empty and len(whole.cases) == 3
    with pytest.raises(TypeError, match=r"keys='case 1'; give several"):
        whole.part("case 1")
    with pytest.raises(KeyError, match=r"no case 'case 3'; there are 'case 0', 'case 1', 'case 2'"):
        whole.part(["case 3"])


def test_entropy_is_that_of_the_first_cases_with_a_text() -> None:
    first, *others = cases(3)
    every = [replace(first, generation=None), *others]
    how = replace(SHORT, cases=1, tokens=4, rows=1)
    found = edit_consistency(zoo.tiny("llama"), every, {"values": METHODS["values"]}, continuations=how)
    assert [payload["entropy"] is None for payload in found.before] == [True, False, True]


def test_bad_input(tmp_path: Path) -> None:
    model = zoo.tiny("llama")
    for wrong in (
        *({"cases": other} for other in ([], cases(1) * 2, "abc", None, [cases(1)[0].prompt])),
        *({"methods": other} for other in ({}, {"before": METHODS["rome"]}, {"a": 3}, {1: METHODS["rome"]})),
    ):
        given: dict[str, Any] = {"cases": cases(1), "methods": METHODS, **wrong}
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong)).removesuffix("s")):
            edit_consistency(model, given["cases"], given["methods"])
    only = {"rome": METHODS["rome"]}
    edit_consistency(model, cases(1), only, run=tmp_path / "run")
    for change in (
        {"methods": {"rome": rome_method(2, settings=RomeSettings(steps=3, templates=["{}"]))}},
        {"continuations": Continuations(cases=1)},
        {"methods": METHODS},
    ):
        given = {"methods": only, **change}
        with pytest.raises(ValueError, match="another run"):
            edit_consistency(model, cases(1), run=tmp_path / "run", **given)


def test_a_run_of_cases_with_other_contents_is_refused(tmp_path: Path) -> None:
    """Facts drawn with another seed have the same names and other new answers."""
    model, (first, *others) = zoo.tiny("llama"), cases(3)
    how: dict[str, Any] = {"continuations": ALONE, "run": tmp_path / "run"}
    alone = {"ft": METHODS["fine-tuning"]}
    edit_consistency(model, [first], alone, **how)
    for change in ({"target": " Oslo"}, {"questions": first.questions[:2]}):
        with pytest.raises(ValueError, match=r"another run.*'case 0'"):
            edit_consistency(model, [replace(first, **change)], alone, **how)
    drawing: dict[str, Any] = {"continuations": replace(ALONE, cases=1, tokens=2, rows=1), "run": tmp_path / "drawn"}
    edit_consistency(model, [first, *others], alone, **drawing)
    with pytest.raises(ValueError, match="is another run"):  # the entropy is that of the first case alone
        edit_consistency(model, [*others, first], alone, **drawing)
    more = edit_consistency(model, [first, *others], alone, **how)
    assert more.cases == edit_consistency(model, [first, *others], alone, continuations=ALONE).cases


def test_a_run_with_another_second_moment_of_the_same_title_is_refused(tmp_path: Path) -> None:
    model = zoo.tiny("llama")
    one, other = (kn.SecondMoment.from_matrix(model, 1, n * torch.eye(zoo.D_MLP), 500) for n in (1, 2))
    how: dict[str, Any] = {"continuations": ALONE, "run": tmp_path / "run"}
    settings = RomeSettings(steps=2, templates=["{}"])
    for c in (one, kn.load(one.save(tmp_path / "c.safetensors"))):
        edit_consistency(model, cases(1), {"rome": rome_method(1, c, settings)}, **how)
    with pytest.raises(ValueError, match="another run"):
        edit_consistency(model, cases(1), {"rome": rome_method(1, other, settings)}, **how)


@pytest.mark.parametrize(
    "wrong",
    [{"cases": -1}, {"rows": 0}, {"top_k": 0}, {"answer": 1.5}, {"unrelated": "The dog"}, {"unrelated": ("Hi",)}],
)
def test_settings_of_continuations_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(wrong))):
        Continuations(**wrong)


def test_what_a_method_must_return() -> None:
    model, edit = zoo.tiny("llama"), kn.erase_values(zoo.tiny("llama"), [(1, 2)])
    for returned in (edit, None, [edit], [edit, None], [edit] * 3):
        with pytest.raises((TypeError, ValueError), match="edits of"):
            edit_consistency(model, cases(2), {"own": lambda *_, r=returned: r}, continuations=ALONE)
    for together in (0, -1, 2.5):
        with pytest.raises((TypeError, ValueError), match="together"):
            edit_consistency(model, cases(2), METHODS, together=together)


def test_weights_that_are_not_put_back_are_noticed() -> None:
    model = zoo.fresh("llama")

    def vandal(model: Any, prompts: Any, targets: Any) -> Any:
        with torch.no_grad():
            next(model.parameters()).add_(1e-3)
        return METHODS["rome"](model, prompts, targets)

    with pytest.raises(RuntimeError, match="the weights changed"):
        edit_consistency(model, cases(1), {"vandal": vandal}, continuations=ALONE)


def test_a_killed_run_goes_on_and_nothing_is_done_twice(tmp_path: Path) -> None:
    run, file = tmp_path / "run", tmp_path / "run.jsonl"
    how: dict[str, Any] = {"continuations": SHORT, "together": 2}
    work = (zoo.fresh("llama"), cases(6), METHODS)
    running = PROCESSES.Process(target=edit_consistency, args=work, kwargs={**how, "run": run})
    running.start()
    deadline = time.monotonic() + 300
    parts = 3 * len(METHODS)  # six cases in twos, one item for each method
    wanted = 6 + 2  # all cases before the edits, and two parts

    def lines() -> list[bytes]:
        return [line for line in file.read_bytes().splitlines(True) if line.endswith(b"\n")] if file.exists() else []

    while len(lines()) < 1 + wanted and running.is_alive() and time.monotonic() < deadline:
        time.sleep(0.005)
    running.kill()
    running.join()
    there = lines()
    assert wanted <= len(there) - 1 < 6 + parts, "it was not killed half-way"
    made: list[str] = []

    def watched(name: str) -> Any:
        def method(model: Any, prompts: Any, targets: Any) -> Any:
            made.append(name)
            return METHODS[name](model, prompts, targets)

        return replace(METHODS[name], edit=method)

    again = edit_consistency(zoo.fresh("llama"), cases(6), {n: watched(n) for n in METHODS}, run=run, **how)
    assert lines()[: len(there)] == there and len(lines()) == 1 + 6 + parts
    assert len(made) == 1 + 6 + parts - len(there), "a finished part was made again"
    whole = edit_consistency(zoo.fresh("llama"), cases(6), METHODS, **how)
    assert (again.cases, again.before, again.after) == (whole.cases, whole.before, whole.after)


def test_the_result_as_files(tmp_path: Path) -> None:
    found = edit_consistency(zoo.tiny("llama"), cases(2), METHODS, continuations=SHORT)
    again = kn.load(found.save(tmp_path / "edits.json"))
    assert again == found and repr(again) == repr(found) and again.skipped == found.skipped
    assert found.save(tmp_path / "edits.csv").read_text() == again.to_frame().to_csv(index=False)
