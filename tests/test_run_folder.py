"""A folder from which a killed run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kntools.results.run_folder import RunFolder
from tests import zoo


def folder(path: Path | None, *, kind: str = "test", name: str = "llama", **settings: Any) -> RunFolder:
    return RunFolder(path, kind=kind, model=zoo.tiny(name), settings=settings or {"layer": 3, "sizes": (1, 2)})


@pytest.mark.parametrize("kept", [True, False])
def test_items_come_back(kept: bool, tmp_path: Path) -> None:
    run = folder(tmp_path / "run" if kept else None)
    run.put("a/b c", {"p": 0.1, "of": (1, 2)})
    assert run.get("a/b c") == {"p": 0.1, "of": [1, 2]} and "a/b c" in run and run.get("other") is None
    calls: list[str] = []

    def make(item: str) -> list[str | None]:
        calls.append(item)
        return [None, item]

    for _ in range(3):  # in order, and each made once, however often it is asked for
        assert run.each(["Zürich", "é", "Zürich"], key=str.lower, make=make, progress=False) == [
            [None, "Zürich"], [None, "é"], [None, "Zürich"]
        ]  # fmt: skip
    assert calls == ["Zürich", "é"] and len(run) == 3
    if kept:
        again = folder(tmp_path / "run")
        assert again.get("a/b c") == run.get("a/b c") and sorted(again.keys()) == ["a/b c", "zürich", "é"]


def test_an_item_that_fails_leaves_the_others(tmp_path: Path) -> None:
    run = folder(tmp_path / "run")
    with pytest.raises(ZeroDivisionError):
        run.each([2, 1, 0, 4], key=str, make=lambda n: 1 / n, progress=False)
    assert sorted(folder(tmp_path / "run").keys()) == ["1", "2"]


def test_what_a_kill_leaves_behind(tmp_path: Path) -> None:
    run = folder(tmp_path / "run")
    run.put("one", 1)
    (tmp_path / "run" / "items" / "half.json.part").write_text('{"key": "tw')
    assert folder(tmp_path / "run").keys() == ["one"]
    early = tmp_path / "early"
    early.mkdir()
    (early / "run.json.part").write_text("{")  # killed before anything was there
    assert len(folder(early)) == 0


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "another"}, "its kind is"),
        ({"name": "gpt2"}, "its model is"),
        ({"layer": 4, "sizes": (1, 2)}, r"its settings is \{'layer': 3\}, not \{'layer': 4\}"),
    ],
)
def test_another_run_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    folder(tmp_path / "run").put("one", 1)
    with pytest.raises(ValueError, match=said):
        folder(tmp_path / "run", **change)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    folder(tmp_path / "run")
    head = tmp_path / "run" / "run.json"
    head.write_text(json.dumps({**json.loads(head.read_text()), "fingerprint": "0" * 16}))
    with pytest.raises(ValueError, match="its fingerprint is"):
        folder(tmp_path / "run")


def test_foreign_and_corrupt_folders(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not a run folder"):
        folder(tmp_path)
    run = folder(tmp_path / "run")
    run.put("one", 1)
    [item] = (tmp_path / "run" / "items").glob("*.json")
    for content, said in (
        ("{", "cannot be read"),
        ("[1]", "not an item"),
        ('{"key": "two", "payload": 1}', "not an item"),
    ):
        item.write_text(content)
        with pytest.raises(ValueError, match=said):
            folder(tmp_path / "run")
    item.unlink()
    for content, said in (("", "cannot be read"), ("[]", "no run"), ('{"kind": "test", "format": 99}', "no run")):
        (tmp_path / "run" / "run.json").write_text(content)
        with pytest.raises(ValueError, match=said):
            folder(tmp_path / "run")
