"""Files and folders that appear whole or not at all."""

import os
import platform
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from secrets import token_hex

import psutil

from kntools.scopes import scope


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A name beside `path` to write to: a file, or a folder. It takes the place of `path` when the block ends well.

    ```python
    with atomic("out/table.csv") as part:
        frame.to_csv(part)
    ```

    After an error nothing is left, and what was there before stays; so does nothing of a process that was killed, after
    the next call. Parent folders are made. Permissions are those that `open` gives, whatever wrote the file.
    """
    path = Path(path)
    begin = f"{path.name}.part-{platform.node()}-"
    part = path.with_name(f"{begin}{os.getpid()}-{token_hex(4)}")
    with scope(lambda: _make_room(path, part, begin), lambda: _remove(part)) as permissions:
        yield part
        for file in part.rglob("*") if part.is_dir() else [part]:
            if file.is_file():
                file.chmod(permissions)  # safetensors makes files that their owner alone may read
        os.replace(part, path)


def write(path: str | Path, content: str | bytes) -> Path:
    with atomic(path) as part:
        part.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return Path(path)


def _make_room(path: Path, part: Path, begin: str) -> int:
    """Make the parent folder and remove what killed processes have left; the permissions of a new file there."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for old in path.parent.glob(f"{escape(begin)}*"):
            process = old.name.removeprefix(begin).partition("-")[0]
            if process.isdecimal() and not psutil.pid_exists(int(process)):
                _remove(old)
        part.touch()
        permissions = stat.S_IMODE(part.stat().st_mode)
    except OSError as error:
        raise type(error)(error.errno, f"{error.strerror}: {str(path)!r}; give a writable path") from None
    _remove(part)
    return permissions


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()
