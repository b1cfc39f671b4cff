"""A folder that keeps each finished item of a long run, so that a killed run goes on where it was.

```python
folder = RunFolder("runs/edits", kind="edit consistency", model=model, settings={"layer": 3})
payloads = folder.each(facts, key=str, make=work)       # on disk, whole, before the next item begins
```

`run.json` says what the run is; `items/` holds one JSON file per item. A file appears whole or not at all. Where there
are several processes (`kntools.results.processes`), each makes its share, and all of them get all payloads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tqdm.auto import tqdm

from kntools.files import write
from kntools.results import processes
from kntools.results.provenance import provenance

FORMAT = 1

T = TypeVar("T")


class RunFolder:
    """Items of one run: from a key (any string) to a JSON payload.

    Arguments:
        path: the folder; made if it is not there. `None` keeps the items in memory only.
        kind: what the run is, in words.
        model: its name, weights and the versions of libraries go into the header.
        settings: whatever the payloads depend on; must be JSON.

    Raises:
        ValueError: the folder is another run's (other kind, settings or weights), is not a run folder at all, or
            holds a file that cannot be read.
    """

    def __init__(self, path: str | Path | None, *, kind: str, model: Any, settings: dict[str, Any]) -> None:
        self.path = None if path is None else Path(path)
        made = provenance(model, **settings)
        self.header: dict[str, Any] = {"kind": kind, "format": FORMAT, **made}
        self._items: dict[str, Any] = {}
        with processes.main_first():
            self._open()

    def _open(self) -> None:
        if self.path is None:
            return
        head = self.path / "run.json"
        if head.exists():
            self._compare(_read(head))
            self._items = dict(self._load())
        elif self.path.exists() and any(not p.name.endswith(".part") for p in self.path.iterdir()):
            raise ValueError(f"{self.path} is not empty, and not a run folder; name a new folder")
        else:
            (self.path / "items").mkdir(parents=True, exist_ok=True)
            _write(head, self.header)

    def __contains__(self, key: str) -> bool:
        return key in self._items

    def __len__(self) -> int:
        return len(self._items)

    def keys(self) -> list[str]:
        return list(self._items)

    def get(self, key: str) -> Any:
        """The payload of a finished item, or `None`."""
        return self._items.get(key)

    def put(self, key: str, payload: Any) -> None:
        """Keep a finished item. In memory it is what reading the file would give."""
        text = json.dumps({"key": key, "payload": payload}, ensure_ascii=False)
        if self.path is not None:
            write(self._file(key), text)
        self._items[key] = json.loads(text)["payload"]

    def each(
        self,
        items: Sequence[T],
        *,
        key: Callable[[T], str],
        make: Callable[[T], Any],
        unit: str = "item",
        progress: bool = True,
    ) -> list[Any]:
        """The payload of every item, in their order. Those that are not there are made now.

        Arguments:
            key: the name of an item; items of the same name are made once.
            make: from an item to its payload. It must not depend on other items, for another process may have those.
            unit: what the progress bar counts.

        Raises:
            RuntimeError: another process failed; its error is in the text.
        """
        names = [key(item) for item in items]
        todo = {name: item for name, item in zip(names, items, strict=True) if name not in self}
        made: list[tuple[str, Any]] = []
        failure: Exception | None = None
        with tqdm(total=len(todo), disable=not progress or not processes.is_main(), unit=unit, leave=False) as bar:
            for name in processes.share(list(todo)):
                try:
                    self.put(name, make(todo[name]))
                except Exception as error:
                    if processes.count() == 1:
                        raise
                    failure = error  # the others wait for what this process has to tell
                    break
                made.append((name, self._items[name]))
                bar.update(processes.count())
        told = [] if failure is None else [f"process {processes.index()}: {type(failure).__name__}: {failure}"]
        for part, errors in processes.gather([(made, told)]):
            if errors:
                raise RuntimeError(f"{errors[0]}; what is finished is kept, so the run can go on") from failure
            self._items.update(part)
        return [self._items[name] for name in names]

    def _file(self, key: str) -> Path:
        assert self.path is not None
        return self.path / "items" / f"{hashlib.blake2b(key.encode(), digest_size=10).hexdigest()}.json"

    def _load(self) -> Iterator[tuple[str, Any]]:
        assert self.path is not None
        for file in sorted((self.path / "items").glob("*.json")):
            item = _read(file)
            if not isinstance(item, dict) or set(item) != {"key", "payload"} or self._file(item["key"]) != file:
                raise ValueError(f"{file} is not an item of this run; delete it, and the run makes it again")
            yield item["key"], item["payload"]

    def _compare(self, found: Any) -> None:
        """Is the run in the folder this one?"""
        if not isinstance(found, dict) or "kind" not in found or found.get("format", 0) > FORMAT:
            raise ValueError(f"{self.path} holds no run that this version of kntools can read; name a new folder")
        for what in ("kind", "model", "fingerprint", "settings"):
            if found.get(what) != self.header[what]:
                raise ValueError(
                    f"{self.path} is another run: its {what} is {_differing(found.get(what), self.header[what])}; "
                    "name a new folder, or give the same arguments"
                )


def _differing(theirs: Any, ours: Any) -> str:
    """What differs, and no more."""
    if isinstance(theirs, dict) and isinstance(ours, dict):
        names = [n for n in sorted({*theirs, *ours}) if theirs.get(n) != ours.get(n)]
        theirs, ours = ({n: side.get(n) for n in names} for side in (theirs, ours))
    return f"{str(theirs)[:300]}, not {str(ours)[:300]}"


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ValueError(f"{file} cannot be read ({error}); delete it, and the run makes it again") from error


def _write(file: Path, content: Any) -> None:
    write(file, json.dumps(content, ensure_ascii=False, indent=1))
