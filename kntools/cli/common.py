"""What commands share: loading with a note on stderr, the check by intervening, tables and the command itself."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import typer
from typer.models import ArgumentInfo, ParameterInfo

if TYPE_CHECKING:
    from kntools.attribution.attribution_result import Attribution
    from kntools.sites import Neuron


def load(name: str, device: str | None) -> Any:
    """`load_model`, with a line on stderr while it takes its time."""
    from rich.console import Console

    with Console(stderr=True).status(f"Loading {name} ..."):
        from kntools.models.load import load_model

        try:
            return load_model(name, device=device)
        except (RuntimeError, AssertionError) as error:  # torch's own words for a device that is not there
            if device is None:
                raise
            raise ValueError(f"device={device!r} cannot be used ({error}); leave it out, or give 'cpu'") from error


def prepare(out: Path | None, draws: int) -> None:
    """What can go wrong at the end is found out at the beginning."""
    if draws < 0:
        raise ValueError(f"draws={draws}; give the number of random draws, or 0 for no check")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)


@dataclass(frozen=True)
class Check:
    """The answer's probability (mean over prompts) untouched and under interventions on some neurons."""

    neurons: int
    prompts: int
    draws: int
    seed: int
    untouched: float
    suppressed: float  # the neurons set to 0
    enhanced: float  # the neurons doubled
    random_suppressed: list[float]  # as many random neurons of the same layers set to 0, one value per draw

    @property
    def random_mean(self) -> float:
        return sum(self.random_suppressed) / len(self.random_suppressed)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "random_mean": self.random_mean}


def check(
    model: Any, att: Attribution, neurons: Sequence[Neuron], *, draws: int, seed: int, max_rows: int | None
) -> Check | None:
    """Do the neurons matter? Suppress and enhance them, and suppress random ones of the same layers."""
    import torch

    from kntools.engine.answers import Edit, answer_probabilities, random_like, untouched
    from kntools.hooks.neurons import ablate_neurons, enhance_neurons

    if draws == 0 or not neurons:
        return None
    generator = torch.Generator().manual_seed(seed)
    width = att.scores.shape[-1]
    others = [random_like(neurons, width, generator) for _ in range(draws)]
    edits: list[Edit] = [untouched, partial(ablate_neurons, neurons), partial(enhance_neurons, neurons)]
    settings = att.provenance["settings"]
    found = answer_probabilities(
        model,
        att.prompts,
        [*edits, *(partial(ablate_neurons, o) for o in others)],
        prepend_bos=settings["prepend_bos"],
        multi_token=settings["multi_token"],
        max_rows=max_rows,
    ).mean(1)
    before, off, twice, *random = found.tolist()
    return Check(len(neurons), len(att.prompts), draws, seed, before, off, twice, random)


def check_lines(found: Check | None) -> list[str]:
    if found is None:
        return []
    return [
        f"these {found.neurons} suppressed: {found.untouched:.4f} -> {found.suppressed:.4f}; "
        f"doubled: -> {found.enhanced:.4f}",
        f"{found.neurons} random neurons of the same layers suppressed: -> {found.random_mean:.4f} "
        f"({min(found.random_suppressed):.4f} to {max(found.random_suppressed):.4f}, {found.draws} draws)",
    ]


def residual_note(att: Attribution) -> str | None:
    """A word of warning where a fixed rule is not complete."""
    limit = att.gap.abs().clamp(min=0.05)
    share = att.residual.abs() / limit
    if att.rule == "adaptive" or float(share.max()) <= 0.05:
        return None
    layer = int(share.amax(0).argmax())
    return (
        f"note: in layer {layer} the scores miss {float(share.max()):.0%} of what the layer does; "
        "--rule adaptive integrates until they add up"
    )


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str, notes: Sequence[str]) -> None:
    """A table on stdout, with numbers to the right, and some lines under it."""
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for note in notes:
        console.print(note, markup=False)


def print_json(data: dict[str, Any]) -> None:
    """The only thing on stdout. Not-a-number becomes null: JSON has no word for it."""
    text = json.dumps(_strict(data), ensure_ascii=False, indent=2, allow_nan=False)
    typer.echo(text)


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _strict(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(v) for v in value]
    if isinstance(value, float) and value != value:
        return None
    return value


def command_line(command: Callable[..., None], given: Mapping[str, Any]) -> str:
    """What to type to do the same again, for captions: arguments, and options that are not at their defaults.

    Arguments:
        command: the function of the command.
        given: the values of its parameters. The output folder is shown as `DIR`: paths are nobody's business.
    """
    typed = ["kntools", command.__name__]
    hints = get_type_hints(command, include_extras=True)
    for name, parameter in signature(command).parameters.items():
        info = next(m for m in hints[name].__metadata__ if isinstance(m, ParameterInfo))
        value = getattr(given[name], "value", given[name])  # of an enum
        if name in ("as_json", "debug") or value == parameter.default:
            continue
        if isinstance(info, ArgumentInfo):
            typed += value if isinstance(value, list) else [str(value)]
            continue
        # Inside Annotated, typer keeps the first spelling where a default would be.
        spelled = next((d for d in (info.default, *(info.param_decls or ())) if isinstance(d, str)), f"--{name}")
        if isinstance(value, bool):
            typed.append(spelled.split("/")[0 if value else 1])
        else:
            typed += [spelled.replace("_", "-"), "DIR" if name == "out" else str(value)]
    return shlex.join(typed)


def show_progress() -> bool:
    """Bars for people, not for log files."""
    return sys.stderr.isatty()
