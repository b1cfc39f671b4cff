"""The page of the architecture table, from the cells of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from scripts import tables
from scripts.architectures.columns import PRIMITIVES
from scripts.architectures.families import FAMILIES, Family
from scripts.architectures.gaps import GAPS, LEFT_OUT, reason

#: By configuration, then by primitive: the cell as `Cell.payload` has it.
Cells = Mapping[str, Mapping[str, Mapping[str, Any]]]

_HEAD = """# Architectures

Each row is a tiny model with random weights, of a family that TransformerLens {version} supports; each column is a
primitive of kntools. Every cell was run and compared with a plain loop that uses no code of kntools: `run_with_hooks`
and torch's module hooks, one intervention at a time. This command makes the page. If interrupted, rerun it to resume:

```
python -m scripts.architectures
```

- A number is the **largest difference** from the plain loop: in probability, or relative to values above 1. Up to
  {tolerance:g} is right.
- **refused** is a deliberate, clear error: for example, the model has no neurons there.
  [Their texts](#errors) are below.
- **gap** is a [known gap](#known-gaps), with its reason.

{summary}
"""


def page(cells: Cells, version: str, tolerance: float) -> str:
    """The whole page."""
    statuses = [_status(name, primitive, cell) for name, row in cells.items() for primitive, cell in row.items()]
    counts = {status: statuses.count(status) for status in ("right", "error", "gap", "unclear", "wrong")}
    summary = (
        f"{len(cells)} configurations, {len(statuses):,} cells: {counts['right']:,} right, "
        f"{counts['error']} clear errors, "
        f"{counts['gap']} known gaps, {counts['unclear']} unclear errors, {counts['wrong']} wrong."
    )
    columns = ["configuration", "kind", *PRIMITIVES]
    rows = [
        [name, _kind(FAMILIES[name]), *(_shown(name, primitive, row.get(primitive)) for primitive in PRIMITIVES)]
        for name, row in cells.items()
    ]
    parts = [
        _HEAD.format(version=version, tolerance=tolerance, summary=summary),
        "## The table\n",
        tables.markdown(columns, rows),
        "## Errors\n\nOne example of each.\n",
        tables.markdown(["primitives", "on", "error"], _errors(cells)),
        "## Known gaps\n",
        tables.markdown(
            ["configuration", "primitive", "reason"], [[g.configuration, g.primitive, g.reason] for g in GAPS]
        ),
        "## Not in the table\n\nArchitectures without a configuration in the table, and the reason.\n",
        tables.markdown(["architectures", "reason"], _left_out()),
    ]
    return "\n".join(parts)


def failures(cells: Cells) -> list[str]:
    """Wrong and unclear cells that are no known gaps."""
    return [
        f"{name}, {primitive}: {cell['status']}, {cell['difference']}, {cell['note']}"
        for name, row in cells.items()
        for primitive, cell in row.items()
        if _status(name, primitive, cell) in ("wrong", "unclear")
    ]


def _kind(family: Family) -> str:
    mode = {"off": "", "folded": ", compatibility mode", "unfolded": ", compatibility mode without folding"}
    return family.kind + mode[family.compatibility]


def _status(name: str, primitive: str, cell: Mapping[str, Any]) -> str:
    bad = cell["status"] in ("wrong", "unclear")
    return "gap" if bad and reason(name, primitive) is not None else cell["status"]


def _shown(name: str, primitive: str, cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return ""
    status = _status(name, primitive, cell)
    return f"{cell['difference']:.0e}" if status == "right" else {"error": "refused"}.get(status, status)


def _errors(cells: Cells) -> list[list[str]]:
    """Errors that differ only in numbers and names are one row."""
    found: dict[str, tuple[str, list[str], list[str]]] = {}
    for name, row in cells.items():
        for primitive, cell in row.items():
            if _status(name, primitive, cell) == "error":
                shape = "".join("N" if c.isdigit() else c for c in cell["note"].replace(name, "NAME"))
                _, primitives, names = found.setdefault(shape, (cell["note"], [], []))
                primitives.append(primitive)
                names.append(name)
    rows = []
    for note, primitives, names in found.values():
        on = list(dict.fromkeys(names))
        more = f" and {len(on) - 3} more" if len(on) > 3 else ""
        rows.append(
            [
                ", ".join(dict.fromkeys(primitives)),
                ", ".join(on[:3]) + more,
                note.replace("|", "\\|").replace("\n", " "),
            ]
        )
    return rows


def _left_out() -> list[list[str]]:
    return [[", ".join(names.split()), why] for why, names in LEFT_OUT.items()]
