"""`kntools report`: all figures of Niu et al. 2024 on one model, on one page."""

import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from typer import Option

from kntools.cli.command import command
from kntools.cli.group import say
from kntools.cli.options import ModelOptions, output
from kntools.cli.output import Output, Sheet
from kntools.cli.pages import card_command
from kntools.data.sources import SampleWarning
from kntools.report import FULL, QUICK, Study, build, choose


@dataclass(frozen=True, kw_only=True)
class ReportOptions(ModelOptions):
    out: Annotated[Path, output("--out", "-o", help="Folder of the page and of finished items.")] = (
        field()  # without it the default would be that of `ModelOptions`
    )

    @property
    def kept(self) -> Path:
        return self.out


@command
def report(
    options: ReportOptions,
    quick: Annotated[bool, Option("--quick", help="Few prompts: minutes for a small model, wide intervals.")] = False,
    figures: Annotated[list[str] | None, Option(help="facts, a number or a name; may be repeated (all).")] = None,
) -> Output:
    """Run all analyses on a model, and write one page that opens offline.

    Example: kntools report --model smollm2-135m --no-bos --quick --out report
    """
    chosen = choose(figures or [])  # an unknown one is an error before the model is loaded
    study = Study(options.load(), QUICK if quick else FULL, out=options.out, seed=options.seed)
    if study.stand_ins:
        names = ", ".join(study.stand_ins)
        say(f"not found: {names}; using the built-in sample instead. Set KNTOOLS_DATA to the folder that has them")
        warnings.simplefilter("ignore", SampleWarning)  # until the command ends
    line = re.sub(r" --figures[ =]\S+", "", options.line)
    done = build(study, chosen, command=line, card_command=card_command(options), tell=lambda line: say(f"{line} ..."))
    rows = [{"figure": f.key, "analysis": f.name, "finding": s.sentence, "notes": s.remarks} for f, s in done.shown]
    sheets = [Sheet(figure.heading, notes=[shown.sentence]) for figure, shown in done.shown]
    notes = [text for text in (study.size.warning, done.note) if text]
    sheets.append(Sheet(f"The page: {done.page}", notes=notes))
    data = {**study.header, "warning": study.size.warning, "figures": rows, "page": str(done.page), "note": done.note}
    return Output(data, sheets, lambda out: done.files)
