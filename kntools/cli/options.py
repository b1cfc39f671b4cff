"""Options of several commands, as fields of the dataclasses that commands take."""

import os
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from rich.console import Console
from typer import Argument, Option

from kntools import prompts
from kntools.analyses.neuron_search import SearchSettings
from kntools.attribution.quadrature import FixedRule
from kntools.models.load import load_model
from kntools.results import processes

# Options by the heading under which `--help` lists them.
method, output, running = (partial(Option, rich_help_panel=name) for name in ("Method", "Output", "Running"))

Text = Annotated[str, Argument(help="The words before the answer, or with one [MASK] for a masked model.")]
Target = Annotated[str, Argument(help="The answer exactly as in the text, e.g. ' Ottawa'.")]
Subject = Annotated[str, Option("--subject", "-s", help="The subject of the fact, as in the text.")]
MultiToken = Annotated[
    prompts.MultiToken, method(help="An answer of several tokens: refuse it, use its first token, or all.")
]


def changed(group: Any) -> dict[str, Any]:
    """The options of a dataclass that are not at their defaults."""
    values = {field.name: (getattr(group, field.name), field.default) for field in fields(group)}
    return {name: value for name, (value, default) in values.items() if value != default}


@dataclass(frozen=True, kw_only=True)
class Options:
    seed: Annotated[int, method(min=0, help="Seed of all random draws.")] = 0
    out: Annotated[Path | None, output("--out", "-o", help="Write a page, results and tables here.")] = None
    as_json: Annotated[bool, output("--json", help="Print only JSON to stdout.")] = False
    debug: Annotated[bool, running("--debug", help="Show the traceback of an error.")] = False
    command: str = ""  # the name of the command
    line: str = ""  # the command that repeats it

    def check_out(self) -> None:
        """Can files be written under `--out`? Asked before the work."""
        if self.out is not None:
            there = next(path for path in (self.out, *self.out.absolute().parents) if path.exists())
            if not there.is_dir() or not os.access(there, os.W_OK):
                raise ValueError(f"--out {self.out}: {there} is no folder that files can be written to; give another")

    @property
    def kept(self) -> Path | None:
        """Where finished items are saved; rerun the command to resume."""
        return None


@dataclass(frozen=True, kw_only=True)
class ModelOptions(Options):
    model: Annotated[str, Option("--model", "-m", help="A name, a folder, a GGUF file or a Hugging Face id.")] = (
        "smollm2-135m"
    )
    bos: Annotated[
        bool | None, method("--bos/--no-bos", help="Prepend BOS, or not (default: the model's setting).")
    ] = None
    device: Annotated[str | None, running(help="auto, cpu, cuda, mps (default: auto).")] = None
    dtype: Annotated[str | None, running(help="float32 (default), bfloat16, float16.")] = None
    hooked: Annotated[bool, running("--hooked", help="Load as HookedTransformer or HookedEncoder (TL 3).")] = False
    max_rows: Annotated[int | None, running(min=1, help="Rows per forward pass (default: from free memory).")] = None

    def load(self) -> Any:
        """The model, on the device of this process, with a progress line on stderr."""
        device = processes.device() if self.device in (None, "auto") else self.device
        with Console(stderr=True).status(f"Loading {self.model} ..."):
            try:
                return load_model(self.model, prepend_bos=self.bos, device=device, dtype=self.dtype, hooked=self.hooked)
            except (RuntimeError, AssertionError) as error:  # what torch raises for a device that is not there
                if self.device is None:
                    raise
                raise ValueError(f"--device {device} cannot be used ({error}); omit it, or give cpu") from error


@dataclass(frozen=True, kw_only=True)
class Integral:
    rule: Annotated[Literal["adaptive", FixedRule], method(help="Rule of integration.")] = "adaptive"
    steps: Annotated[int | None, method(min=1, help="Nodes of a fixed rule (20).")] = None
    tol: Annotated[float | None, method(help="Relative residual allowed per layer by adaptive (0.01).")] = None

    @property
    def settings(self) -> SearchSettings:
        return SearchSettings(rule=self.rule, steps=self.steps, tol=self.tol)


@dataclass(frozen=True, kw_only=True)
class Choice(Integral):
    """... and how knowledge neurons are chosen from scores; see `knowledge_neurons`."""

    threshold: Annotated[float, method(help="Coarse set: neurons with this share of a prompt's highest score.")] = 0.2
    share: Annotated[float, method(help="Initial share of the prompts that must select a neuron.")] = 0.7
    least: Annotated[int, method(min=0, help="Fewest neurons wanted.")] = 2
    most: Annotated[int, method(min=1, help="Most neurons wanted.")] = 5
    step: Annotated[float, method(help="Step by which the share changes.")] = 0.05

    @property
    def settings(self) -> SearchSettings:
        count, base = (self.least, self.most), super().settings
        return replace(base, threshold=self.threshold, share=self.share, target_count=count, step=self.step)
