"""What is measured of an edit, each against a plain loop; editors by name; two-hop questions."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import kntools as kn
from kntools.analyses import EDITORS, Continuations, edit_consistency, editors
from kntools.analyses.edit_cases import cases_of
from kntools.analyses.edit_measures import UNRELATED, neighbour_logits, says_only
from kntools.analyses.edit_result import SCORES, share_of_cases
from kntools.data import TwoHopFact
from kntools.editing.rome_settings import MEMIT, RomeSettings
from tests import zoo
from tests.analyses.test_edit_consistency import ALONE, METHODS, SHORT, cases
from tests.plain_rome import text_keys

FEW = RomeSettings(steps=3, templates=["{}"])


@torch.no_grad()
def last_logits(model: Any, text: str) -> torch.Tensor:
    return model(kn.encode(model, kn.Prompt(text, " the")).tokens)[0, -1].float()


@torch.no_grad()
def greedy(model: Any, text: str, count: int) -> str:
    tokens = kn.encode(model, kn.Prompt(text, " the")).tokens
    start = tokens.shape[1]
    for _ in range(count):
        new = model(tokens)[:, -1].argmax(-1)[:, None]
        if int(new) == model.tokenizer.eos_token_id:
            break
        tokens = torch.cat([tokens, new], 1)
    return model.tokenizer.decode(tokens[0, start:])


@torch.no_grad()
def perplexity(model: Any, texts: tuple[str, ...]) -> float:
    total, count = 0.0, 0
    for text in texts:
        ids = model.to_tokens(text)
        first = len(model.to_tokens(text.split()[0])[0])
        log_p = model(ids)[0].float().log_softmax(-1)
        for at in range(first, ids.shape[1]):
            total, count = total - float(log_p[at - 1, ids[0, at]]), count + 1
    return math.exp(total / count)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_what_is_measured_beside_the_questions(name: str) -> None:
    model, [case] = zoo.tiny(name), cases(1)
    texts = (UNRELATED[0], zoo.SENTENCES[1])
    how = Continuations(answer=5, unrelated=texts)
    found = edit_consistency(model, [case], {"values": METHODS["values"]}, continuations=how)
    near = [q.text for q in case.questions if q.role == "neighborhood true"]
    before = [last_logits(model, text).log_softmax(-1) for text in near]
    assert found.value("before", "perplexity") == pytest.approx(perplexity(model, texts), rel=1e-4)
    [edit] = METHODS["values"](model, [case.prompt], [case.target])
    with edit.applied(model):
        after = [last_logits(model, text).log_softmax(-1) for text in near]
        kl = [float((b.exp() * (b - a)).sum()) for b, a in zip(before, after, strict=True)]
        assert found.value("values", "neighborhood KL") == pytest.approx(sum(kl) / len(kl), rel=1e-3, abs=1e-6)
        assert found.value("values", "perplexity") == pytest.approx(perplexity(model, texts), rel=1e-4)
        text = greedy(model, case.prompt.text, 5)
        assert found.after["values"][0]["says"] == text
        assert found.value("values", "reliability, free") == says_only(text, case.target, case.prompt.target)
    assert kl[0] > 1e-4 and found.scores("before", "neighborhood KL") == []
    logits = neighbour_logits(model, [case])[case.key, near[0]]
    torch.testing.assert_close(logits, last_logits(model, near[0]), atol=1e-4, rtol=1e-4)


def test_answers_token_by_token_under_teacher_forcing() -> None:
    model, [case] = zoo.tiny("llama"), cases(1)
    prompt = kn.Prompt(case.prompt.text, " the lazy dog", multi_token="sum")
    e = kn.encode(model, prompt)
    top = model(e.tokens)[0, list(e.positions)].argmax(-1)
    expected = float((top == torch.tensor(e.target_ids)).float().mean())
    [answer] = kn.engine.answers.ask(model, prompt)
    assert answer.right == pytest.approx(expected) and answer.exact == (expected == 1)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (" Rome, and not far from it", True),
        (" Rome", True),
        (" Romeo and Juliet", False),
        (" the city of Rome", False),
        (" Rome. The capital of Canada is Ottawa", False),
        (" Rome. The Ottawans", True),
    ],
)
def test_a_free_answer_begins_with_the_new_one_and_does_not_come_back(text: str, expected: bool) -> None:
    assert says_only(text, " Rome", " Ottawa") == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("上海。", True), ("上海是中国", True), ("上海不是北京", False), ("北京", False)]
)
def test_a_free_answer_in_a_script_without_spaces(text: str, expected: bool) -> None:
    assert says_only(text, "上海", "北京") == expected


def test_a_share_has_wilsons_interval() -> None:
    found = share_of_cases([1.0] * 8 + [0.0] * 2)
    z, n, p = 1.959964, 10, 0.8
    centre, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    assert (found["low"], found["high"]) == pytest.approx(((centre - half) / scale, (centre + half) / scale), abs=1e-5)
    assert share_of_cases([1.0, 1.0])["low"] < 0.5 and share_of_cases([1.0, 1.0])["high"] == pytest.approx(1)
    low, high = (share_of_cases(v)[end] for v, end in (([1.0, 0.0], "low"), ([1.0, 1.0], "high")))
    assert share_of_cases([1.0, 0.5]) == {"mean": 0.75, "low": low, "high": high}


# --- editors by name ---------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error::UserWarning")
def test_all_editors_on_the_same_records(tmp_path: Path) -> None:
    model = zoo.fresh("llama")
    digest, c = zoo.bits(model), text_keys(model, 1)
    options: dict[str, Any] = {"layer": 1, "second_moment": c, "settings": FEW, "threshold": math.inf}
    how = editors(model, **options)
    assert tuple(how) == EDITORS
    run = tmp_path / "run.jsonl"
    found = edit_consistency(model, cases(2), how, run=run, continuations=SHORT)
    assert zoo.bits(model) == digest and found.methods == ["before", *EDITORS]
    alone = edit_consistency(model, cases(2), {"rome": METHODS["rome"]}, continuations=SHORT)
    assert alone.cases == found.cases
    for score in ("reliability, p", "efficacy magnitude", "neighborhood magnitude", "perplexity"):
        # One fact by emmet is a rank-one edit with a consistent key; templates=["{}"] make all keys consistent.
        assert found.value("emmet", score) == pytest.approx(found.value("rome", score), rel=1e-3, abs=1e-5)
        assert found.value("rome published key", score) == pytest.approx(found.value("rome", score), rel=1e-3, abs=1e-5)
    frame = found.to_frame()
    assert set(frame["score"]) >= {"reliability, free", "reliability, tokens", "neighborhood KL", "perplexity"}
    assert frame.groupby("method")["n"].max().nunique() == 1 and len(found.plot().data) == len(EDITORS) + 1
    for other in (
        editors(model, **options, bound=1e-2),
        {**how, "rome": METHODS["values"]},
    ):
        with pytest.raises(ValueError, match="another run"):
            edit_consistency(model, cases(2), other, run=run, continuations=SHORT)


def test_names_of_editors() -> None:
    model = zoo.tiny("llama")
    assert list(editors(model, layer=1)) == [name for name in EDITORS if name != "alpha_edit"]
    with pytest.raises(ValueError, match="alpha_edit needs C"):
        editors(model, ["alpha_edit"], layer=1)
    with pytest.raises(ValueError, match=r"unknown editor 'rime'.*rome"):
        editors(model, ["rime"])
    with pytest.raises(TypeError, match="names='rome'"):
        editors(model, "rome")
    with pytest.raises(TypeError, match="second_moment=3"):
        editors(model, ["rome"], second_moment=3)  # type: ignore[arg-type] # which is what is tested
    with pytest.raises(ValueError, match="give C of that layer"):
        editors(model, ["rome"], layer=2, second_moment=text_keys(model, 1))
    with pytest.raises(ValueError, match="by name"):
        edit_consistency(model, cases(1), METHODS, layer=1)
    by_name = edit_consistency(model, cases(1), ["fine_tune"], layer=1, continuations=ALONE)
    by_hand = edit_consistency(model, cases(1), editors(model, ["fine_tune"], layer=1), continuations=ALONE)
    assert by_name == by_hand


def test_editors_by_name_are_the_functions_with_published_settings() -> None:
    """memit and alpha_edit measure and bound values as MEMIT does, whatever ROME's settings are."""
    model, c, case = zoo.tiny("llama"), text_keys(zoo.tiny("llama"), 1), cases(1)[0]
    few = RomeSettings(steps=3, templates=["{}"], key="published")
    found = editors(model, layer=1, second_moment=c, settings=few, threshold=10.0)
    wide = replace(few, clamp=MEMIT.clamp, scale=MEMIT.scale, key="consistent")
    asked = {"layers": [1], "second_moments": c}
    by_hand = {
        "rome": kn.rome(model, case.prompt, case.target, layer=1, second_moment=c, settings=few),
        "emmet": kn.emmet(model, [case.prompt], [case.target], **asked, settings=replace(few, key="consistent")),
        "memit": kn.memit(model, [case.prompt], [case.target], **asked, settings=wide),
        "alpha_edit": kn.alpha_edit(model, [case.prompt], [case.target], **asked, settings=wide, threshold=10.0),
    }
    for name, expected in by_hand.items():
        [edit] = found[name](model, [case.prompt], [case.target])
        for ours, plain in zip(edit.changes, expected.changes, strict=True):
            assert torch.equal(ours.update, plain.update), name


# --- questions ---------------------------------------------------------------------------------------------


def test_two_hop_questions() -> None:
    model = zoo.tiny("llama")
    [case] = cases_of(model, [TwoHopFact("Carla Moore", "Canada", "Italy", "Ottawa", "Rome", "P27")])
    assert (case.prompt.text, case.target) == ("Carla Moore is a citizen of", " Italy")
    asked = {q.role: (q.text, q.answer) for q in case.questions}
    both = "The capital of the country that Carla Moore is a citizen of is"
    assert asked["two-hop new"] == (both, " Rome") and asked["two-hop true"] == (both, " Ottawa")
    assert asked["second hop"] == ("The capital of Italy is", " Rome")
    fact = kn.data.symmetric_facts("P36", path="sample")[0]
    [case] = cases_of(model, [fact])
    asked = {q.role: (q.text, q.answer) for q in case.questions}
    assert asked["two-hop new"] == (f"The country whose capital is {fact.new_target} is", f" {fact.subject}")
    assert asked["two-hop true"] == (f"The country whose capital is {fact.target} is", f" {fact.subject}")


def test_two_hop_facts_from_files(tmp_path: Path) -> None:
    folder = tmp_path / "pararel"
    for kind in ("patterns", "facts"):
        (folder / kind).mkdir(parents=True)
    for relation in ("P27", "P36"):
        (folder / f"patterns/{relation}.jsonl").write_text('{"pattern": "[X] is [Y]."}\n')
    rows = [("Ann", "Canada"), ("Bob", "Italy"), ("Carl", "Nowhere")]
    capitals = [("Canada", "Ottawa"), ("Italy", "Rome")]
    for relation, facts in (("P27", rows), ("P36", capitals)):
        lines = (f'{{"sub_label": "{s}", "obj_label": "{t}", "uuid": "{s}"}}\n' for s, t in facts)
        (folder / f"facts/{relation}.jsonl").write_text("".join(lines))
    found = kn.data.two_hop_facts(path=tmp_path)
    assert [(f.subject, f.new_target, f.capital, f.new_capital) for f in found] == [
        ("Ann", "Italy", "Ottawa", "Rome"),
        ("Bob", "Canada", "Rome", "Ottawa"),
    ]
    assert found.skipped["no capital of this country"] == 1


def test_neighbours_behind_the_edited_sentence() -> None:
    [record] = kn.data.counterfact(path="sample", limit=1)
    [case] = cases_of(zoo.tiny("llama"), [record])
    near = [q for q in case.questions if q.role == "neighborhood true"]
    behind = [q for q in case.questions if q.role == "neighborhood+ true"]
    assert [q.text for q in behind] == [f"{case.prompt.text}{case.target}. {q.text}" for q in near] and near
    assert [q.answer for q in behind] == [q.answer for q in near]


def test_the_entropy_is_that_of_the_edited_weights() -> None:
    model = zoo.fresh("llama")
    edit = kn.edit_values(model, [(1, n) for n in range(8)], " book", " cat")
    how, text = Continuations(tokens=8, rows=3), zoo.SENTENCES[0]
    before, hooked = how.entropy(model, text), how.entropy(model, text, edit.hooks(model))
    with edit.applied(model):
        assert hooked == how.entropy(model, text) != before


def test_a_score_of_answers_that_were_not_all_measured_is_none() -> None:
    """Runs from before a field was measured lack it: that is no answer of 0, and no mean over the others."""
    answers = [{"p": 0.25, "exact": True, "tokens": 1.0}, {"p": 0.75, "exact": False}]
    after = {"answers": {"rewrite new": answers}}
    assert SCORES["reliability, tokens"](after) is None and SCORES["reliability, p"](after) == 0.5
    assert SCORES["symmetry, p"](after) is None
