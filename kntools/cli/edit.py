"""`kntools edit`: change one fact, and see what the model writes before and after, there and elsewhere."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kntools.cli import common, options
from kntools.cli.errors import friendly
from kntools.files import write

if TYPE_CHECKING:
    from kntools.analyses.fig10_edit_examples import EditExamples
    from kntools.editing.rank_one import RankOneEdit

UNRELATED = ["The Eiffel Tower is located in the city of", "To treat my toothache, I should see a"]

Texts = Annotated[list[str] | None, typer.Option(help="A text to continue; give the option several times.")]


def edit(
    text: Annotated[str, typer.Argument(help="The words before the answer.")],
    target: Annotated[str, typer.Argument(help="The new answer, e.g. ' Rome'.")],
    subject: Annotated[str, typer.Option("--subject", "-s", help="Whom the fact is about, as it stands in the text.")],
    old: Annotated[str | None, typer.Option(help="The old answer (default: what the model says).")] = None,
    model: options.Model = options.DEFAULT_MODEL,
    layer: Annotated[
        int | None, typer.Option(help="Layer to edit (default: published, or at a sixth of the depth).")
    ] = None,
    second_moment: Annotated[
        Path | None, typer.Option(help="C of that layer, as SecondMoment.save wrote it (default: C = I).")
    ] = None,
    key: Annotated[str, typer.Option(help="consistent, or published (the released code's mixture).")] = "consistent",
    steps: Annotated[int, typer.Option(help="Steps of the value optimisation.")] = 20,
    symmetric: Texts = None,
    synonym: Texts = None,
    unrelated: Texts = None,
    tokens: Annotated[int, typer.Option(help="Tokens to write.")] = 12,
    bos: options.Bos = None,
    seed: Annotated[int, typer.Option(help="Kept with the edit; nothing is drawn here.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for the edit (safetensors) and the table (CSV).")
    ] = None,
    as_json: options.Json = False,
    device: options.Device = None,
    max_rows: options.MaxRows = None,
    debug: options.Debug = False,
) -> None:
    """Edit a fact by a rank-one change of one layer (ROME), and show what it did.

    Example: kntools edit "The capital of Canada is" " Rome" --subject Canada --symmetric "Rome is the capital of"
    """
    with friendly(debug):
        from kntools.prompts import MASK

        if MASK in text:
            raise ValueError("kntools edit works on causal models: end the text where the answer begins")
        loaded = common.load(model, device)

        from kntools.analyses.fig10_edit_examples import edit_examples
        from kntools.editing.rome import rome
        from kntools.editing.rome_settings import settings_for
        from kntools.editing.second_moment import SecondMoment
        from kntools.prompts import Prompt
        from kntools.results.result import load

        chosen = settings_for(loaded) | {"steps": steps}
        if layer is not None:
            chosen["layer"] = layer
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the table says it
            made = rome(
                loaded,
                Prompt(text, old if old is not None else _said(loaded, text, target, bos), subject=subject),
                target,
                second_moment=None if second_moment is None else load(second_moment, SecondMoment),
                key=key,
                seed=seed,
                prepend_bos=bos,
                max_rows=max_rows,
                progress=common.show_progress(),
                **chosen,
            )
        texts = {"edited": [text], "symmetric": symmetric or [], "synonym": synonym or []}
        texts["unrelated"] = unrelated or UNRELATED
        shown = edit_examples(loaded, made, texts, tokens=tokens, prepend_bos=bos)
        files = [] if out is None else _write(out, made, shown)
        if as_json:
            common.print_json(_json(made, shown, files))
        else:
            _print(made, shown, files)


def _said(model: Any, text: str, target: str, bos: bool | None) -> str:
    """The token that the model gives by itself."""
    from kntools.engine.generation import generate
    from kntools.prompts import Prompt, encode

    tokens = encode(model, Prompt(text, target), bos, multi_token="first").tokens
    return str(model.tokenizer.decode(generate(model, tokens, 1)[0].tolist()))


def _write(out: Path, made: RankOneEdit, shown: EditExamples) -> list[str]:
    out.mkdir(parents=True, exist_ok=True)
    files = [made.save(out / "edit.safetensors"), out / "examples.csv", out / "loss.csv"]
    write(files[1], shown.to_frame().to_csv(index=False))
    write(files[2], made.to_frame().to_csv(index=False))
    return [str(f) for f in files]


def _json(made: RankOneEdit, shown: EditExamples, files: list[str]) -> dict[str, Any]:
    return {
        "command": "edit",
        **made.provenance,
        "prompt": {"text": made.prompt.text, "target": made.prompt.target, "subject": made.prompt.subject},
        "target": made.target,
        "layer": made.layer,
        "uses_second_moment": made.uses_second_moment,
        "before": made.before,
        "after": made.after,
        "key_cosine": made.key_cosine,
        "relative_norm": made.relative_norm,
        "warnings": made.warnings(),
        "loss": [step.loss for step in made.steps],
        "examples": shown.to_frame().to_dict("records"),
        "files": files,
    }


def _print(made: RankOneEdit, shown: EditExamples, files: list[str]) -> None:
    used = "C measured on text" if made.uses_second_moment else "C = I"
    common.print_table(
        ["", "text", "before", "after"],
        [[e.group, e.text, repr(e.before), repr(e.after)] for e in shown.examples],
        title=f"{made.title()}: probability {made.before:.4f} -> {made.after:.4f} ({used})",
        notes=[
            f"key cosine {made.key_cosine:.2f}, update {made.relative_norm:.3f} of the norm of W_out",
            *(f"warning: {text}" for text in made.warnings()),
            *(f"wrote {f}" for f in files),
        ],
    )
