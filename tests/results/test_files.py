"""Files appear whole or not at all."""

from __future__ import annotations

import multiprocessing
import os
import signal
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kntools.editing.weight_edits import LayerEdit
from kntools.files import atomic, write

PROCESSES = multiprocessing.get_context("fork")


def test_a_file_and_a_folder_appear_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic(path) as part:
        part.write_text("one")
        assert not path.exists() and str(os.getpid()) in part.name and part.parent == path.parent
    assert path.read_text() == "one"
    assert write(path, "zwei\n") == path and path.read_bytes() == b"zwei\n"
    assert write(str(path), b"\0\r\n").read_bytes() == b"\0\r\n"
    with atomic(tmp_path / "folder") as part:
        part.mkdir()
        (part / "inside").write_text("x")
    assert (tmp_path / "folder" / "inside").read_text() == "x"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a.txt", "folder", "inside", "new"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there(error: type[BaseException], tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "old")
    with pytest.raises(error), atomic(path) as part:
        part.write_text("half")
        raise error
    with pytest.raises(error), atomic(tmp_path / "folder") as part:
        part.mkdir()
        (part / "x").write_text("half")
        raise error
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_any_file(umask: int, tmp_path: Path) -> None:
    """safetensors alone makes files that nobody else may read."""

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    before = os.umask(umask)
    try:
        (tmp_path / "plain").write_text("x")
        write(tmp_path / "ours", "x")
        LayerEdit((), "none", {"model": "m"}, {"x": torch.zeros(3)}).save(tmp_path / "edit.safetensors")
        with atomic(tmp_path / "folder") as part:
            part.mkdir()
            save_file({"x": torch.zeros(3)}, part / "model.safetensors")
    finally:
        os.umask(before)
    written = [tmp_path / name for name in ("ours", "edit.safetensors", "folder/model.safetensors")]
    assert {mode(path) for path in written} == {mode(tmp_path / "plain")} == {0o666 & ~umask}


def test_what_killed_processes_left_is_removed(tmp_path: Path) -> None:
    def die() -> None:
        with atomic(tmp_path / "a[1].txt") as part:
            part.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    process = PROCESSES.Process(target=die)
    process.start()
    process.join()
    assert len(list(tmp_path.iterdir())) == 1
    with atomic(tmp_path / "a[1].txt") as mine:  # at the same time: one that is alive
        mine.write_text("mine")
        write(tmp_path / "a[1].txt", "whole")
        assert mine.exists()
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_two_processes_that_write_the_same_file(tmp_path: Path) -> None:
    contents = [letter * 300_000 for letter in (b"a", b"b")]
    path = write(tmp_path / "file", contents[0])

    def keep_writing(content: bytes) -> None:
        for _ in range(100):
            write(path, content)

    both = [PROCESSES.Process(target=keep_writing, args=(content,)) for content in contents]
    for process in both:
        process.start()
    while any(process.is_alive() for process in both):
        assert path.read_bytes() in contents
    assert [process.exitcode for process in both] == [0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    write(tmp_path / "file", "x")
    for path in ("/proc/nowhere/a.txt", "/sys/a.txt", tmp_path / "file" / "a.txt"):
        begun = False
        with pytest.raises(OSError, match=r"a\.txt.*give a writable path"), atomic(path):
            begun = True
        assert not begun
