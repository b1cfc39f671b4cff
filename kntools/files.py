"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A name beside `path` to write to: a file, or a folder. It takes the place of `path` when the block ends well.

    ```python
    with atomic("out/table.csv") as part:
        frame.to_csv(part)
    ```

    After an error nothing is left, and what was there before stays. Parent folders are made. Permissions are those
    that `open` gives. The name holds the process id, so that processes which write the same file do not meet.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part-{os.getpid()}-{token_hex(4)}")
    try:
        yield part
        os.replace(part, path)
    except BaseException:
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)
        raise


def write(path: str | Path, content: str | bytes) -> Path:
    """Write a text (UTF-8, line ends as they are) or bytes to a file that appears whole or not at all."""
    with atomic(path) as part:
        part.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    return Path(path)
