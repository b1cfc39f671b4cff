"""One file of finished items that only grows, and the tensors beside it: whole, or cut back to what is whole."""

import json
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from kntools.files import write
from kntools.results.encoding import decode, encode
from kntools.results.result import checksum


class RunFile:
    """`NAME.jsonl`: a header, then one line per item; `NAME.tensors`: their tensors, each item's as safetensors.

    Each line ends in its checksum. One that was not finished (the process was killed, the disk was full) is not read,
    and cut off by the next `append`.
    """

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        if path.suffix != ".jsonl" and path.exists():
            raise ValueError(f"{path} is no run; give the name of a run: FILE.jsonl")
        self.path = path if path.suffix == ".jsonl" else path.with_name(f"{path.name}.jsonl")
        self.tensors = self.path.with_suffix(".tensors")
        self._known: dict[Path, tuple[int, int]] = {}  # how far each file is whole, and its size

    def exists(self) -> bool:
        """Is there anything in it? An empty file is none."""
        return self.path.exists() and self.path.stat().st_size > 0

    def create(self, header: dict[str, Any]) -> None:
        """Begin the file. The header appears whole or not at all."""
        line = _line(header)
        write(self.path, line)
        self.tensors.unlink(missing_ok=True)  # of a run whose file was deleted
        self._known[self.path] = len(line), len(line)

    def read(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The header, and the payload of every item."""
        raw = self.path.read_bytes()
        *lines, unfinished = raw.split(b"\n")
        header = _parsed(lines[0], "kind", "format") if lines else None
        if header is None:
            raise ValueError(f"{self.path} does not begin with the header of a run; name a new run, or delete the file")
        items: dict[str, Any] = {}
        end = 0
        for number, line in enumerate(lines[1:], start=2):
            item = _parsed(line, "key", "payload")
            tensors = None if item is None else self._tensors(item)
            if item is None or tensors is None:
                raise ValueError(f"{self.path}, line {number} is damaged; delete the line to compute its item again")
            items[item["key"]] = decode(item["payload"], Any, tensors)
            end = max(end, sum(item.get("tensors", [0, 0])[:2]))
        size = self.tensors.stat().st_size if self.tensors.exists() else 0
        self._known = {self.path: (len(raw) - len(unfinished), len(raw)), self.tensors: (end, size)}
        return header, items

    def append(self, key: str, payload: Any) -> Any:
        """Write an item; returns its payload as `read` would give it."""
        tensors: dict[str, Tensor] = {}
        item: dict[str, Any] = {"key": key, "payload": encode(payload, "payload", tensors)}
        if tensors:
            data = safetensors.torch.save(tensors)
            item["tensors"] = [self._append(self.tensors, data), len(data), checksum(key, tensors)]
        line = _line(item)
        self._append(self.path, line)
        return decode(json.loads(line)["payload"], Any, tensors)

    def remove(self) -> None:
        for path in (self.path, self.tensors):
            path.unlink(missing_ok=True)
        self._known = {}

    def _append(self, path: Path, data: bytes) -> int:
        """Where the data begins. After an error, the file is as before."""
        end, size = self._known.get(path, (0, 0))
        with path.open("r+b" if path.exists() else "x+b", buffering=0) as file:
            if file.seek(0, 2) != size:
                raise OSError(f"another process has written to {path}; let one process work on a run at a time")
            file.truncate(file.seek(end))
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[file.write(rest) :]
            except BaseException:
                file.truncate(end)
                self._known[path] = end, end
                raise
            self._known[path] = end + len(data), end + len(data)
        return end

    def _tensors(self, item: dict[str, Any]) -> dict[str, Tensor] | None:
        """The tensors of an item, or `None` if they are not what was written."""
        if "tensors" not in item:
            return {}
        start, length, expected = item["tensors"]
        try:
            with self.tensors.open("rb") as file:
                file.seek(start)
                tensors = safetensors.torch.load(file.read(length))
        except Exception:  # safetensors has errors of many kinds
            return None
        return tensors if checksum(item["key"], tensors) == expected else None


def _line(content: dict[str, Any]) -> bytes:
    return json.dumps({**content, "checksum": checksum(json.dumps(content), {})}, ensure_ascii=False).encode() + b"\n"


def _parsed(line: bytes, *names: str) -> dict[str, Any] | None:
    """What `_line` was given, if it has these names, or `None`. Runs from before there were checksums have none."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or not found.keys() >= {*names}:
        return None
    expected = found.pop("checksum", None)
    return found if expected in (None, checksum(json.dumps(found), {})) else None
