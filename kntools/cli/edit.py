"""`kntools edit`: change one fact, and compare generated texts before and after."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from kntools.analyses.fig10_edit_examples import edit_examples
from kntools.cli import pages
from kntools.cli.command import command
from kntools.cli.options import ModelOptions, Subject, method
from kntools.cli.output import Output, Sheet
from kntools.editing.export import new_folder, save_model
from kntools.editing.rome import rome
from kntools.editing.rome_settings import Key, RomeSettings, layer_for
from kntools.editing.second_moment import SecondMoment
from kntools.engine.generation import generate
from kntools.models.causality import is_masked
from kntools.prompts import MASK, Prompt
from kntools.report.page import Chart, Page, PageTable, Section
from kntools.results.result import load

UNRELATED = ["The Eiffel Tower is located in the city of", "To treat my toothache, I should see a"]

Texts = Annotated[list[str] | None, Option(help="A text to continue; may be repeated.")]


@dataclass(frozen=True, kw_only=True)
class RomeOptions:
    layer: Annotated[int | None, method(min=0, help="Layer to edit (default: published, or a sixth of the depth).")] = (
        None
    )
    second_moment: Annotated[
        list[str] | None, method(help="C of a layer: a file or hf:// address; one or several (default: C = I).")
    ] = None
    key: Annotated[Key, method(help="One mean key, or the two keys of the released code.")] = "consistent"
    steps: Annotated[int | None, method(min=2, help="Steps of the value optimisation (default: published).")] = None

    def moments(self) -> dict[int, SecondMoment]:
        loaded = [load(where, SecondMoment) for where in self.second_moment or []]
        by_layer = {c.layer: c for c in loaded}
        if len(by_layer) < len(loaded):
            raise ValueError(f"--second-moment gives layers {[c.layer for c in loaded]}; give one file per layer")
        return by_layer

    def arguments(self, model: Any) -> dict[str, Any]:
        settings = replace(RomeSettings.for_model(model), key=self.key)
        return {
            "layer": layer_for(model) if self.layer is None else self.layer,
            "settings": settings if self.steps is None else replace(settings, steps=self.steps),
        }


@command
def edit(
    text: Annotated[str, Argument(help="The words before the answer.")],
    target: Annotated[str, Argument(help="The new answer, e.g. ' Rome'.")],
    subject: Subject,
    options: ModelOptions,
    how: RomeOptions,
    old: Annotated[str | None, Option(help="The old answer (default: the most probable token).")] = None,
    symmetric: Texts = None,
    synonym: Texts = None,
    unrelated: Texts = None,
    tokens: Annotated[int, Option(min=1, help="Tokens to generate.")] = 12,
    save: Annotated[
        Path | None,
        Option("--save-model", help="Save the edited model to this new folder, in the format of transformers."),
    ] = None,
) -> Output:
    """Edit a fact by a rank-one change of one layer (ROME), and show answers before and after.

    Example: kntools edit "The capital of Canada is" " Rome" --subject Canada --symmetric "Rome is the capital of"
    """
    if save is not None:
        new_folder(save)
    model = options.load()
    if MASK in text or is_masked(model):
        raise ValueError(
            "only causal models can be edited here, by a text that ends where the answer begins; "
            "for a masked model use kn.edit_values or kn.erase_values in Python"
        )
    arguments, moments = how.arguments(model), how.moments()
    c = moments.get(arguments["layer"], next(iter(moments.values()), None))  # rome refuses C of another layer
    prompt = Prompt(text, old or generate(model, text, max_new_tokens=1), subject=subject)
    with warnings.catch_warnings(action="ignore"):  # they are shown under the table
        made = rome(model, prompt, target, **arguments, second_moment=c)
    if save is not None:
        with made.applied(model):
            save_model(model, save)
    around = {"symmetric": symmetric or [], "synonym": synonym or [], "unrelated": unrelated or UNRELATED}
    examples = edit_examples(model, made, {"edited": [text], **around}, max_new_tokens=tokens).to_frame()

    def page() -> Page:
        written = PageTable(examples, "Before and after the edit.", csv="examples.csv")
        steps = PageTable(made.to_frame(), "Loss by step.", csv="loss.csv", folded=True)
        about, loss = PageTable(made.preview(), "The edit."), Chart(made.plot(), "Loss of the value.", n="1 edit")
        sections = [Section("Continuations", [written]), Section("Optimisation", [about, loss, steps])]
        return Page(f"Edit: {text} → {target.strip()}", sections, f"{made.describe()}.")

    measured = ("target", "layer", "uses_second_moment", "before", "after", "key_cosine", "relative_norm")
    data = {
        "prompt": {"text": text, "target": prompt.target, "subject": subject},
        **{name: getattr(made, name) for name in measured},
        "warnings": made.warnings(),
        "saved_model": save and str(save),
        "loss": [step.loss for step in made.steps],
        "examples": examples,
    }
    shown = examples.assign(before=examples["before"].map(repr), after=examples["after"].map(repr))
    saved = [] if save is None else [f"wrote the edited model to {save}"]
    about, warned = made.preview().query("about != 'warning'"), [f"warning: {line}" for line in made.warnings()]
    sheets = [Sheet(made.describe(), about, warned), Sheet("Before and after the edit", shown, saved)]
    return pages.page_output(options, made.provenance, sheets, data, page, edit=made)
