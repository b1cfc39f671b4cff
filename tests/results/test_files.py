"""Files appear whole or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from kntools.files import atomic, write


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


def test_permissions_are_those_of_any_file(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("x")
    mode = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert stat.S_IMODE(write(tmp_path / "ours", "x").stat().st_mode) == mode
