"""The finished items of a long run, from which an interrupted run resumes.

```python
store = RunStore("runs/edits", kind="edit consistency", model=model, settings={"layer": 3})
payloads = store.each(facts, key=str, make=work)       # each is on disk before the next one begins
```

All of them are in `runs/edits.jsonl` (`kntools.results.run_file`). Where there are several processes
(`kntools.results.processes`), each makes its share and keeps it in `runs/edits.RANK.jsonl` until the main process has
merged it; all of them get all payloads.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from kntools.options import progress_bar
from kntools.results import processes
from kntools.results.encoding import decode, encode
from kntools.results.provenance import provenance
from kntools.results.run_file import RunFile

FORMAT = 2

T = TypeVar("T")


class RunStore:
    """Items of one run: from a key (any text) to a payload of JSON, tensors and results.

    `path` is the name of the run, without `.jsonl`; `None` keeps the items in memory only. `settings` are whatever the
    payloads depend on. A file of another run (other kind, model, settings or weights), or a damaged one, is an error.
    """

    def __init__(self, path: str | Path | None, *, kind: str, model: Any, settings: dict[str, Any]) -> None:
        self.header: dict[str, Any] = {"kind": kind, "format": FORMAT, **provenance(model, **settings)}
        self._file = None if path is None else RunFile(path)
        self.items: dict[str, Any] = {}  # those that are finished, by key
        with processes.main_first():
            if self._file is not None:
                self._open(self._file)
        processes.wait()  # all share out the same items: none may begin before the others have read the file

    @property
    def path(self) -> Path | None:
        return None if self._file is None else self._file.path

    def put(self, key: str, payload: Any) -> None:
        """Keep a finished item. In memory it is what reading the file would give."""
        if self._file is None:
            tensors: dict[str, Tensor] = {}
            text = json.dumps(encode(payload, "payload", tensors))
            self.items[key] = decode(json.loads(text), Any, tensors)
        else:
            if not self._file.exists():
                self._file.create({**self.header, "process": processes.index()})
            self.items[key] = self._file.append(key, payload)

    def each(
        self, items: Sequence[T], *, key: Callable[[T], str], make: Callable[[T], Any], unit: str = "item"
    ) -> list[Any]:
        """The payload of every item, in their order. Those that are not there are made now.

        Items of the same `key` are made once. `make` must not depend on other items: another process may have those.
        A file that cannot be written to is an error before the first item is made.
        """
        return self.together(items, 1, key=key, make=lambda part: [make(part[0])], unit=unit)

    def together(
        self,
        items: Sequence[T],
        size: int,
        *,
        key: Callable[[T], str],
        make: Callable[[Sequence[T]], Iterable[Any]],
        unit: str = "item",
    ) -> list[Any]:
        """`each`, with up to `size` items made at a time.

        A part of which anything is missing is made as a whole: company can decide the last bits of an item.
        """
        names = [key(item) for item in items]
        distinct = list(dict(zip(names, items, strict=True)).items())
        parts = [distinct[start : start + size] for start in range(0, len(distinct), size)]
        todo = [dict(part) for part in parts if any(name not in self.items for name, _ in part)]
        if todo and self._file is not None and self._file.exists():
            self._file.path.open("ab").close()  # an error, if nothing can be added
        made: dict[str, Any] = {}
        failure: Exception | None = None
        with progress_bar(sum(map(len, todo)), unit) as bar:
            for part in processes.share(todo):
                try:
                    for name, payload in zip(part, make(list(part.values())), strict=True):
                        if name not in self.items:
                            self.put(name, payload)
                        made[name] = self.items[name]
                except KeyboardInterrupt as error:
                    if self.path is not None:
                        error.add_note(f"finished items are saved in {self.path}; make the same call again to resume")
                    raise
                except Exception as error:
                    if processes.count() == 1:
                        raise
                    failure = error  # the others wait for what this process has to say
                    break
                bar.update(len(part) * processes.count())
        self._merge(made, failure)
        return [self.items[name] for name in names]

    def _open(self, file: RunFile) -> None:
        if file.exists():
            header, self.items = file.read()
            self._compare(header, file.path)
        elif processes.is_main():
            file.create(self.header)
        if not processes.is_main():
            self._file = RunFile(file.path.with_name(f"{file.path.stem}.{processes.index()}.jsonl"))
            return
        for path in sorted(file.path.parent.glob("*.jsonl")):  # of processes that were killed before they could merge
            name, _, rank = path.stem.rpartition(".")
            if name == file.path.stem and rank.isdecimal():
                part = RunFile(path)
                header, items = part.read()
                if "process" in header:  # no run that somebody called so
                    self._compare(header, path)
                    self._keep(items)
                    part.remove()

    def _keep(self, items: Mapping[str, Any]) -> None:
        for key, payload in items.items():
            if key not in self.items:
                self.put(key, payload)

    def _merge(self, made: dict[str, Any], failure: Exception | None) -> None:
        """Give all processes what each has made; the main one writes it to the one file."""
        if processes.count() == 1:
            return
        error = None if failure is None else f"process {processes.index()}: {type(failure).__name__}: {failure}"
        parts = processes.gather([(made, error)])
        for items, _ in parts:
            if processes.is_main():
                self._keep(items)
            else:
                self.items.update(items)
        processes.wait()  # until all of it is on disk
        if self._file is not None and not processes.is_main():
            self._file.remove()
        for _, text in parts:
            if text is not None:
                raise RuntimeError(f"{text}; finished items are saved: give the same command to resume") from failure

    def _compare(self, found: dict[str, Any], path: Path) -> None:
        if found["format"] != FORMAT:
            raise ValueError(f"{path} holds no run that this version of kntools can read; name a new run")
        for what in ("kind", "model", "fingerprint", "settings"):
            if found.get(what) != self.header[what]:
                raise ValueError(
                    f"{path} is another run: its {what} is {_differing(found.get(what), self.header[what])}; "
                    "name a new run, or give the same arguments"
                )


def _differing(found: Any, expected: Any) -> str:
    if isinstance(found, dict) and isinstance(expected, dict):
        names = [n for n in sorted({*found, *expected}) if found.get(n) != expected.get(n)]
        found, expected = ({n: side.get(n) for n in names} for side in (found, expected))
    return f"{str(found)[:300]}, not {str(expected)[:300]}"
