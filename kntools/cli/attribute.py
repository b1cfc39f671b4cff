"""`kntools attribute`: which neurons make this answer probable?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kntools.cli import common, options
from kntools.cli.errors import friendly

if TYPE_CHECKING:
    from kntools.attribution.attribution_result import Attribution


def attribute(
    text: Annotated[str, typer.Argument(help="The words before the answer, or with one [MASK] for a masked model.")],
    target: Annotated[str, typer.Argument(help="The answer, e.g. ' Ottawa'.")],
    model: options.Model = options.DEFAULT_MODEL,
    top: Annotated[int, typer.Option(help="How many leading neurons to show and to check.")] = 10,
    rule: options.RuleOption = options.Rule.adaptive,
    steps: options.Steps = 20,
    tol: options.Tol = 0.01,
    multi_token: options.MultiTokenOption = options.MultiToken.error,
    bos: options.Bos = None,
    draws: options.Draws = 10,
    seed: options.Seed = 0,
    out: options.Out = None,
    as_json: options.Json = False,
    device: options.Device = None,
    max_rows: options.MaxRows = None,
    debug: options.Debug = False,
) -> None:
    """Attribute an answer to the neurons of a model.

    Example: kntools attribute "The capital of Canada is" " Ottawa" --top 5
    """
    given = dict(locals())
    with friendly(debug):
        from kntools.prompts import Prompt

        prompt = Prompt(text, target)  # a mistake in it is told before the model is loaded
        if top < 1:
            raise ValueError(f"--top {top}; show at least 1 neuron")
        common.prepare(out, draws)
        loaded = common.load(model, device)

        from kntools.attribution.integrated_gradients import integrated_gradients

        att = integrated_gradients(
            loaded,
            prompt,
            rule=rule.value,
            steps=steps,
            tol=tol,
            multi_token=multi_token.value,
            prepend_bos=bos,
            max_rows=max_rows,
            progress=common.show_progress(),
        )
        neurons = att.top(min(top, att.scores[0].numel()))
        found = common.check(loaded, att, neurons, draws=draws, seed=seed, max_rows=max_rows)
        files = [] if out is None else _write(out, att, found, common.command_line(attribute, given), len(neurons))
        if as_json:
            common.print_json(_json(att, found, len(neurons), files))
        else:
            _print(att, found, len(neurons), files)


def _write(out: Path, att: Attribution, found: common.Check | None, command: str, top: int) -> list[str]:
    from kntools.cli.pages import attribute_page
    from kntools.report import page

    att.save(out / "attribution.safetensors")
    page.write(out / "index.html", attribute_page(att, found, command, top))
    return [str(out / name) for name in ("index.html", "attribution.safetensors", "neurons.csv")]


def _json(att: Attribution, found: common.Check | None, top: int, files: list[str]) -> dict[str, Any]:
    prompt = att.prompts[0]
    return {
        "command": "attribute",
        **att.provenance,
        "prompt": {"text": prompt.text, "target": prompt.target},
        "probability": float(att.probability[0]),
        "rule": att.rule,
        "largest_residual": float(att.residual.abs().max()),
        "neurons": [
            {"neuron": repr(n), "layer": n.layer, "index": n.index, "score": att.score_of(n), "rank": rank + 1}
            for rank, n in enumerate(att.top(top))
        ],
        "check": found.to_json() if found else None,
        "files": files,
    }


def _print(att: Attribution, found: common.Check | None, top: int, files: list[str]) -> None:
    prompt = att.prompts[0]
    note = common.residual_note(att)
    common.print_table(
        ["neuron", "score", "rank"],
        [[repr(n), f"{att.score_of(n):+.4f}", str(rank + 1)] for rank, n in enumerate(att.top(top))],
        title=f"{prompt.text!r} -> {prompt.target!r}: probability {float(att.probability[0]):.4f}",
        notes=[
            *([note] if note else []),
            f"{att.scores[0].numel():,} neurons of {att.provenance['model']}, rule {att.rule}, "
            f"largest residual {float(att.residual.abs().max()):.1e}",
            *common.check_lines(found),
            *(f"wrote {f}" for f in files),
        ],
    )
