"""Values that several editors search alike are searched once, and never taken for those of another search."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import kntools as kn
from kntools.analyses.edit_methods import editors
from kntools.editing import rome_value
from kntools.editing.rome_value import shared_values
from tests import zoo
from tests.editing.test_joint_edits import PROMPTS, SHORT, TARGETS

pytestmark = pytest.mark.filterwarnings("ignore:.*in L[0-9]+")


@pytest.fixture
def searches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many edits each search was for."""
    counts: list[int] = []
    search = rome_value._search

    def counted(model: object, edits: list[object], *rest: object) -> object:
        counts.append(len(edits))
        return search(model, edits, *rest)  # type: ignore[arg-type]  # handed on as they came

    monkeypatch.setattr(rome_value, "_search", counted)
    return counts


def test_editors_with_one_search_share_it_and_edit_as_without(searches: list[int]) -> None:
    model = zoo.fresh("llama")
    names = ["rome", "rome published key", "emmet", "memit"]
    methods = editors(model, names, layer=1, settings=SHORT)
    plain = {name: methods[name](model, PROMPTS, TARGETS) for name in names}
    assert searches == [3, 3, 3, 3]  # each for all facts together
    searches.clear()
    with shared_values():
        shared = {name: methods[name](model, PROMPTS, TARGETS) for name in names}
    assert searches == [3, 3]  # MEMIT bounds values in another way
    for name in names:
        for edit, expected in zip(shared[name], plain[name], strict=True):
            torch.testing.assert_close(edit.changes[0].update, expected.changes[0].update)
    alone = kn.emmet(model, PROMPTS[0], TARGETS[0], layers=1, settings=SHORT)
    torch.testing.assert_close(shared["emmet"][0].changes[0].update, alone.changes[0].update)


def test_whatever_a_value_depends_on_is_searched_anew(searches: list[int]) -> None:
    model = zoo.fresh("llama")

    def rome(settings: object = SHORT, layer: int = 1, target: str = " Rome", prompt: kn.Prompt = PROMPTS[0]) -> None:
        kn.rome(model, prompt, target, layer=layer, settings=settings)  # type: ignore[arg-type]  # RomeSettings

    with shared_values():
        rome()
        with shared_values():
            rome(replace(SHORT, key="published"))
        assert searches == [1]
        rome(replace(SHORT, clamp=3.0))
        rome(replace(SHORT, templates=("{}", "No, it was. {}")))
        rome(replace(SHORT, templates=("Yes, it is. {}",)))  # the same texts, but the bare prompt has no weight
        rome(layer=2)
        rome(target=" London")
        rome(prompt=kn.Prompt("The city of Canada is", " Ottawa", subject="Canada"))
        model.cfg.default_prepend_bos = not model.cfg.default_prepend_bos
        rome()
        model.cfg.default_prepend_bos = not model.cfg.default_prepend_bos
        with kn.rome(model, PROMPTS[1], TARGETS[1], layer=1, settings=SHORT).applied(model):
            rome()  # the weights are others now
        assert searches == [1] * 10
        rome()
        assert len(searches) == 10
    rome()
    assert len(searches) == 11  # nothing is kept after the block
