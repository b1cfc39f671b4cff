"""Read data files as `Row`s, whose fields are read by type. A bad record is an error with its file and line."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import cache, reduce
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from kntools.arguments import shown

T = TypeVar("T")

_BOM, _GZIP = b"\xef\xbb\xbf", b"\x1f\x8b"


@dataclass(frozen=True)
class Row:
    """One record and where it stands (`folder/file.jsonl:12`)."""

    where: str
    values: Mapping[str, Any]

    def text(self, name: str) -> str:
        return self._value(name, "a string that is not blank", _is_text)

    def integer(self, name: str) -> int:
        # In Python a bool is an int too.
        return self._value(name, "an integer", lambda value: isinstance(value, int) and not isinstance(value, bool))

    def texts(self, name: str) -> tuple[str, ...]:
        expected = "a list of strings that are not blank"
        return tuple(self._value(name, expected, lambda value: isinstance(value, list) and all(map(_is_text, value))))

    def child(self, name: str) -> "Row":
        """An object inside this one."""
        inside = self._value(name, "an object", lambda value: isinstance(value, Mapping))
        return Row(f"{self.where}, in {name!r}", inside)

    def template(self, name: str = "template") -> "Row":
        """This row, if a text in it has one place for the subject."""
        if (text := self.text(name)).count("{}") != 1:
            raise ValueError(f"{self.where}: field {name!r} is {text!r}; expected one {{}} for the subject")
        return self

    def record(self, kind: Callable[..., T], **names: str) -> T:
        """A dataclass of texts, integers and lists of texts; `names` are fields that are called otherwise here.

        ```python
        row.record(KnownFact, target="attribute")           # a name may lead into an object: "rewrite.target"
        ```
        """
        values = {}
        for name, type_ in _field_types(kind).items():
            *parents, last = names.get(name, name).split(".")
            row = reduce(Row.child, parents, self)
            read = {int: row.integer, tuple[str, ...]: row.texts}.get(type_, row.text)
            values[name] = read(last)
        return kind(**values)

    def _value(self, name: str, expected: str, fits: Callable[[Any], bool]) -> Any:
        if fits(self.values.get(name)):
            return self.values[name]
        if name in self.values:
            raise ValueError(f"{self.where}: field {name!r} must be {expected}, found {self.values[name]!r}")
        have = ", ".join(sorted(map(str, self.values))) or "none"
        raise ValueError(f"{self.where}: field {name!r} is missing; expected {expected} (fields here: {have})")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


@cache
def _field_types(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def json_lines(path: Path) -> list[Row]:
    """A `.jsonl` file: one JSON object per line."""
    expected = "one JSON object per line"
    rows = []
    for number, line in numbered_lines(path, expected):
        where = f"{path}:{number}"
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{where}: broken JSON ({error.msg}, column {error.colno}); expected {expected}") from None
        rows.append(_row(where, values, expected))
    return rows


def json_array(path: Path) -> list[Row]:
    """A `.json` file that holds one array of objects. Each row knows the line on which it begins."""
    expected = "one JSON array of objects"
    text = "\n".join(line for _, line in numbered_lines(path, expected, blank_is_error=False))
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}:{error.lineno}: broken JSON ({error.msg}); expected {expected}") from None
    if not isinstance(values, list) or not values:
        raise ValueError(f"{path}: found {shown(values)}; expected {expected}, at least one")
    rows, line, start, end = list[Row](), 1, 0, text.index("[") + 1
    for _ in values:
        before, start = start, next(re.compile(r"[^\s,]").finditer(text, end)).start()
        value, end = json.JSONDecoder().raw_decode(text, start)
        line += text.count("\n", before, start)
        rows.append(_row(f"{path}:{line}", value, expected))
    return rows


def table(path: Path, columns: tuple[str, ...]) -> list[Row]:
    """A tab-separated file whose first line names its columns."""
    expected = f"tab-separated columns {', '.join(columns)}"
    lines = list(numbered_lines(path, expected))
    if tuple(lines[0][1].split("\t")) != columns:
        raise ValueError(f"{path}:1: the first line is {lines[0][1]!r}; expected {expected}")
    if len(lines) == 1:
        raise ValueError(f"{path}: no rows after the first line; expected {expected}")
    rows = []
    for number, line in lines[1:]:
        cells = line.split("\t")
        if len(cells) != len(columns):
            raise ValueError(f"{path}:{number}: {len(cells)} columns; expected {expected}")
        rows.append(Row(f"{path}:{number}", dict(zip(columns, cells, strict=True))))
    return rows


def _row(where: str, values: Any, expected: str) -> Row:
    if not isinstance(values, dict):
        raise ValueError(f"{where}: found a {type(values).__name__}; expected {expected}")
    return Row(where, values)


def numbered_lines(path: Path, expected: str, *, blank_is_error: bool = True) -> Iterator[tuple[int, str]]:
    """Numbered lines, without their ends. Only `\\n` ends a line: a sentence may hold other separators."""
    if path.is_dir():
        raise ValueError(f"{path} is a folder; expected a file with {expected}")
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a file with {expected}")
    raw = path.read_bytes()
    if not raw.strip():
        raise ValueError(f"{path} is empty; expected {expected}")
    if raw.startswith(_GZIP):
        raise ValueError(f"{path} is compressed; expected a file with {expected}: unpack it with gunzip")
    for number, line in enumerate(raw.removeprefix(_BOM).removesuffix(b"\n").split(b"\n"), start=1):
        try:
            text = line.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}:{number}: not UTF-8 (byte {line[error.start]:#04x} at column {error.start + 1}); "
                "save the file as UTF-8"
            ) from None
        if blank_is_error and not text.strip():
            raise ValueError(f"{path}:{number}: the line is blank; expected {expected}")
        yield number, text
