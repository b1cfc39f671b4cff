"""The finished items of a run: kept, whole, and resumed after whatever happened."""

from __future__ import annotations

import json
import math
import resource
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

import kntools as kn
from kntools.results import encoding, run_file
from kntools.results.run_file import RunFile
from kntools.results.run_store import RunStore
from tests import zoo
from tests.long_runs import PROCESSES


def store(path: Path | None, *, kind: str = "test", name: str = "llama", **settings: Any) -> RunStore:
    return RunStore(path, kind=kind, model=zoo.tiny(name), settings=settings or {"layer": 3, "sizes": (1, 2)})


def scores(seed: int = 0) -> torch.Tensor:
    return torch.randn(3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("kept", [True, False])
def test_items_come_back(kept: bool, tmp_path: Path) -> None:
    run = store(tmp_path / "run" if kept else None)
    run.put("a/b c", {"p": 0.1, "of": (1, 2)})
    assert run.items["a/b c"] == {"p": 0.1, "of": [1, 2]} and "other" not in run.items
    calls: list[str] = []

    def make(item: str) -> list[str | None]:
        calls.append(item)
        return [None, item]

    for _ in range(3):  # in order, and each made once, however often it is asked for
        assert run.each(["Zürich", "é\n", "Zürich"], key=str.lower, make=make) == [
            [None, "Zürich"], [None, "é\n"], [None, "Zürich"]
        ]  # fmt: skip
    assert calls == ["Zürich", "é\n"] and len(run.items) == 3
    if kept:
        again = store(tmp_path / "run")
        assert again.items["a/b c"] == run.items["a/b c"] and list(again.items) == ["a/b c", "zürich", "é\n"]
        assert [p.name for p in tmp_path.iterdir()] == ["run.jsonl"] and again.path == tmp_path / "run.jsonl"
        assert len((tmp_path / "run.jsonl").read_text(encoding="utf-8").splitlines()) == 4
        assert list(store(tmp_path / "run.jsonl").items) == list(again.items)


@pytest.mark.parametrize("kept", [True, False])
def test_what_looks_alike_in_json_is_told_apart(kept: bool, tmp_path: Path) -> None:
    run = store(tmp_path / "run" if kept else None)
    payload = {
        "range": [range(5), range(3, 0, -1), [0, 5, 1]],
        "a.b": torch.ones(1),
        "a": {"b": torch.zeros(1), "b'": torch.ones(2)},
        "marks": {"$float": "1", "$": {"$tensor": "x", "$$": {"$kind": 3}}, "nan": math.nan},
    }
    run.put("all", payload)
    assert encoding.same(run.items["all"], payload)
    if kept:
        assert encoding.same(store(tmp_path / "run").items["all"], payload)
    for frame, said in (
        (pd.DataFrame({"x": [1, 2]}, index=[7, 9]), r"frame\.reset_index"),
        (pd.DataFrame({1: [1, 2]}), "a name of its own"),
        (pd.DataFrame([[1, 2]], columns=["x", "x"]), "a name of its own"),
    ):
        with pytest.raises(TypeError, match=said):
            run.put("frame", frame)


def test_parts_are_the_same_whatever_was_finished(tmp_path: Path) -> None:
    """An item may depend on the company in which it is made: a part is made as a whole, or not at all."""
    asked: list[list[str]] = []

    def make(part: Any) -> Any:
        asked.append(list(part))
        for item in part:
            if item == stop:
                raise KeyboardInterrupt
            yield item + "".join(part)

    items, stop = [*"abcdea"], "d"
    with pytest.raises(KeyboardInterrupt):
        store(tmp_path / "run").together(items, 2, key=str, make=make)
    run, stop = store(tmp_path / "run"), ""
    assert list(run.items) == ["a", "b", "c"]
    assert run.together(items, 2, key=str, make=make) == ["aab", "bab", "ccd", "dcd", "ee", "aab"]
    assert asked == [["a", "b"], ["c", "d"], ["c", "d"], ["e"]]


@pytest.mark.parametrize("kept", [True, False])
def test_tensors_and_results_come_back(kept: bool, tmp_path: Path) -> None:
    run = store(tmp_path / "run" if kept else None)
    att = kn.activation(zoo.tiny("llama"), kn.Prompt("The capital of Canada is", " Ottawa"))
    half, odd = scores().bfloat16(), {"a": [scores(), None], "nan": math.nan}
    for key, payload in (("scores", scores(1)), ("odd", odd), ("att", att), ("half", {"half": half}), ("none", 1)):
        run.put(key, payload)
    for there in (run, *([store(tmp_path / "run")] if kept else [])):
        assert torch.equal(there.items["scores"], scores(1)) and there.items["att"] == att and there.items["none"] == 1
        assert torch.equal(there.items["odd"]["a"][0], scores()) and math.isnan(there.items["odd"]["nan"])
        assert torch.equal(there.items["half"]["half"], half)
    if kept:
        assert (tmp_path / "run.tensors").stat().st_size > 2 * scores().nbytes
        assert "base64" not in (tmp_path / "run.jsonl").read_text()


def test_an_item_that_fails_leaves_the_others(tmp_path: Path) -> None:
    run = store(tmp_path / "run")
    with pytest.raises(ZeroDivisionError):
        run.each([2, 1, 0, 4], key=str, make=lambda n: 1 / n)
    assert list(store(tmp_path / "run").items) == ["2", "1"]


def test_a_kill_at_any_byte(tmp_path: Path) -> None:
    """Whatever beginning of the two files is on disk, the next start takes what is whole, and makes the rest."""
    whole = store(tmp_path / "whole")
    payloads = {"one": [1], "two": {"x": scores(2)}, "three": {"y": [scores(3), "ü"]}}
    sizes = [((tmp_path / "whole.jsonl").stat().st_size, 0)]
    for key, payload in payloads.items():
        whole.put(key, payload)
        sizes.append(_sizes(tmp_path / "whole"))
    lines, tensors = ((tmp_path / f"whole.{ending}").read_bytes() for ending in ("jsonl", "tensors"))
    for finished, ((line, tensor), (line_end, tensor_end)) in enumerate(pairwise(sizes)):
        # Tensors are written before the line that names them.
        moments = [(line, n) for n in range(tensor, tensor_end, 37)]
        moments += [(n, tensor_end) for n in range(line, line_end)]
        for moment, (line_size, tensor_size) in enumerate(moments):
            path = tmp_path / f"{finished}-{moment}"
            path.with_suffix(".jsonl").write_bytes(lines[:line_size])
            path.with_suffix(".tensors").write_bytes(tensors[:tensor_size])
            again = store(path)
            assert list(again.items) == [*payloads][:finished]
            for key in [*payloads][finished:]:
                again.put(key, payloads[key])
            assert path.with_suffix(".jsonl").read_bytes() == lines
            assert path.with_suffix(".tensors").read_bytes() == tensors


def _sizes(path: Path) -> tuple[int, int]:
    tensors = path.with_suffix(".tensors")
    return path.with_suffix(".jsonl").stat().st_size, tensors.stat().st_size if tensors.exists() else 0


def test_an_empty_file_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "run.jsonl").touch()
    store(tmp_path / "run").put("one", 1)
    assert list(store(tmp_path / "run").items) == ["one"]
    assert [p.name for p in tmp_path.iterdir()] == ["run.jsonl"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_what_was_whole(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store(tmp_path / "run")
    run.put("one", {"x": scores(1)})
    before = (tmp_path / "run.jsonl").read_bytes()
    calls = [0]

    def stopping(data: bytes) -> memoryview:
        calls[0] += 1
        if calls[0] == 2:  # its tensors are there, its line is not
            raise error
        return memoryview(data)

    with monkeypatch.context() as patch, pytest.raises(type(error)):
        patch.setattr(run_file, "memoryview", stopping, raising=False)
        run.put("two", {"x": scores(2)})
    assert (tmp_path / "run.jsonl").read_bytes() == before and list(run.items) == list(
        store(tmp_path / "run").items
    ) == ["one"]
    run.put("two", {"x": scores(2)})
    for again in (run, store(tmp_path / "run")):
        assert torch.equal(again.items["one"]["x"], scores(1)) and torch.equal(again.items["two"]["x"], scores(2))


def _limited(path: Path) -> None:
    """In a process of its own, whose files may not grow."""
    run = store(path)
    run.put("one", {"x": torch.ones(10)})
    resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for name, payload in (("two", torch.ones(2000)), ("three", "x" * 5000)):
        with pytest.raises(OSError, match="File too large"):
            run.put(name, payload)
        assert list(run.items) == ["one"]
    run.put("four", {"x": torch.zeros(3)})


def test_a_disk_that_is_full(tmp_path: Path) -> None:
    """The system refuses to let the files grow: half of an item arrives, and is taken back."""
    process = PROCESSES.Process(target=_limited, args=(tmp_path / "run",))
    process.start()
    process.join()
    assert process.exitcode == 0
    run = store(tmp_path / "run")
    assert list(run.items) == ["one", "four"] and torch.equal(run.items["four"]["x"], torch.zeros(3))


def test_two_that_write_the_same_run(tmp_path: Path) -> None:
    one, other = store(tmp_path / "run"), store(tmp_path / "run")
    one.put("one", 1)
    with pytest.raises(OSError, match="another process has written to"):
        other.put("other", 2)
    assert list(store(tmp_path / "run").items) == ["one"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "another"}, "its kind is"),
        ({"name": "gpt2"}, "its model is"),
        ({"layer": 4, "sizes": (1, 2)}, r"its settings is \{'layer': 3\}, not \{'layer': 4\}"),
    ],
)
def test_another_run_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    store(tmp_path / "run").put("one", 1)
    before = (tmp_path / "run.jsonl").read_bytes()
    with pytest.raises(ValueError, match=said):
        store(tmp_path / "run", **change)
    assert (tmp_path / "run.jsonl").read_bytes() == before


def test_other_weights_and_formats_are_refused(tmp_path: Path) -> None:
    store(tmp_path / "run")
    path = tmp_path / "run.jsonl"
    header = json.loads(path.read_text())
    del header["checksum"]
    for change, said in (({"fingerprint": "0" * 16}, "its fingerprint is"), ({"format": 99}, "holds no run that this")):
        path.write_text(json.dumps({**header, **change}) + "\n")
        with pytest.raises(ValueError, match=said):
            store(tmp_path / "run")


def test_foreign_and_damaged_files(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    for content in ("my notes", "my notes\n", "[]\n", '{"kind": "test"}\n', "\n\n"):
        path.write_text(content)
        with pytest.raises(ValueError, match=r"run\.jsonl does not begin with the header of a run"):
            store(tmp_path / "run")
        assert path.read_text() == content
    path.unlink()
    run = store(tmp_path / "run")
    for key, payload in (("one", 1), ("two", {"x": scores()}), ("three", 3)):
        run.put(key, payload)
    header, *lines = path.read_bytes().splitlines(keepends=True)
    for bad in (b"{\n", b"[1]\n", b'{"key": "two"}\n', lines[1][:-9] + b"\n"):
        path.write_bytes(header + lines[0] + bad + lines[2])
        with pytest.raises(ValueError, match=r"run\.jsonl, line 3 is damaged; delete the line"):
            store(tmp_path / "run")
    path.write_bytes(header + b"".join(lines))
    tensors = path.with_suffix(".tensors")
    content = tensors.read_bytes()
    for damaged in (content[:-1], content[:-1] + bytes([content[-1] ^ 1]), None):
        tensors.unlink() if damaged is None else tensors.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"line 3 is damaged; delete the line"):
            store(tmp_path / "run")
    path.write_bytes(header + lines[0] + lines[2])  # as the message says
    assert list(store(tmp_path / "run").items) == ["one", "three"]


def test_a_file_that_was_deleted_is_begun_anew(tmp_path: Path) -> None:
    store(tmp_path / "run").put("one", {"x": scores()})
    (tmp_path / "run.jsonl").unlink()
    store(tmp_path / "run").put("two", {"x": scores(2)})
    assert torch.equal(store(tmp_path / "run").items["two"]["x"], scores(2))


def test_no_flipped_bit_is_read_as_another_value(tmp_path: Path) -> None:
    run = store(tmp_path / "run")
    for key, payload in (("one", {"p": 0.123456789, "text": "Zürich"}), ("two", {"x": scores()}), ("three", [1, 2])):
        run.put(key, payload)
    for path in (tmp_path / "run.jsonl", tmp_path / "run.tensors"):
        content = path.read_bytes()
        for at in range(0, len(content), 5):
            path.write_bytes(content[:at] + bytes([content[at] ^ (1 << at % 7)]) + content[at + 1 :])
            try:
                found = store(tmp_path / "run")
            except ValueError:
                continue
            for key in found.items:
                assert encoding.same(found.items[key], run.items[key])
        path.write_bytes(content)
    assert list(store(tmp_path / "run").items) == list(run.items)


def test_a_run_that_cannot_be_written_or_is_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OSError, match=r"/proc/nowhere/run\.jsonl.*give a writable path"):
        store(Path("/proc/nowhere/run"))
    run, made = store(tmp_path / "run"), list[str]()

    def refuse(self: Path, *args: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(self))

    with monkeypatch.context() as patch, pytest.raises(PermissionError):
        patch.setattr(Path, "open", refuse)  # somebody else's file: root may write to all
        run.each(["a"], key=str, make=lambda item: made.append(item))
    assert not made, "the error came after the work"

    def stop(item: str) -> int:
        if item == "b":
            raise KeyboardInterrupt
        return 1

    with pytest.raises(KeyboardInterrupt) as caught:
        run.each(["a", "b"], key=str, make=stop)
    assert caught.value.__notes__ == [f"finished items are saved in {run.path}; make the same call again to resume"]
    assert list(store(tmp_path / "run").items) == ["a"]


def test_parts_of_processes_that_were_killed_are_merged(tmp_path: Path) -> None:
    run = store(tmp_path / "a.run")
    run.put("one", 1)
    for rank in (1, 12):
        part = RunFile(tmp_path / f"a.run.{rank}.jsonl")
        part.create({**run.header, "process": rank})
        part.append("one", 1)
        part.append(f"of {rank}", {"x": scores(rank)})
    with (tmp_path / "a.run.1.jsonl").open("a") as file:
        file.write('{"key": "ha')  # where it was killed
    mine = store(tmp_path / "a.run.7")  # another run, which is called so
    mine.put("mine", 1)
    again = store(tmp_path / "a.run")
    assert list(again.items) == ["one", "of 1", "of 12"] and torch.equal(again.items["of 12"]["x"], scores(12))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.run.7.jsonl", "a.run.jsonl", "a.run.tensors"]
    assert list(store(tmp_path / "a.run").items) == list(again.items) and list(store(tmp_path / "a.run.7").items) == [
        "mine"
    ]
    part = RunFile(tmp_path / "a.run.2.jsonl")
    part.create({**run.header, "settings": {}, "process": 2})
    with pytest.raises(ValueError, match=r"a\.run\.2\.jsonl is another run: its settings is"):
        store(tmp_path / "a.run")
