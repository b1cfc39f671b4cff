"""`kntools search`: which neurons carry this fact, whatever the phrasing?"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kntools.cli import common, options
from kntools.cli.errors import friendly

if TYPE_CHECKING:
    from kntools.attribution.attribution_result import Attribution
    from kntools.attribution.knowledge_neurons import KnowledgeNeurons
    from kntools.prompts import Prompt


def search(
    target: Annotated[str | None, typer.Argument(help="The answer to all of the texts, e.g. ' Ottawa'.")] = None,
    texts: Annotated[list[str] | None, typer.Argument(help="Phrasings of one fact; three or more are best.")] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help='JSON lines: {"text": ..., "target": ...}; TARGET where there is none.'),
    ] = None,
    model: options.Model = options.DEFAULT_MODEL,
    threshold: Annotated[
        float,
        typer.Option(help="Coarse set: at least this share of a prompt's highest score.", rich_help_panel="Method"),
    ] = 0.2,
    share: Annotated[
        float, typer.Option(help="Share of the prompts in which a neuron must be, at first.", rich_help_panel="Method")
    ] = 0.7,
    least: Annotated[int, typer.Option(help="Fewest neurons wanted.", rich_help_panel="Method")] = 2,
    most: Annotated[int, typer.Option(help="Most neurons wanted.", rich_help_panel="Method")] = 5,
    step: Annotated[float, typer.Option(help="By how much the share moves.", rich_help_panel="Method")] = 0.05,
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
    """Find the knowledge neurons of a fact from several phrasings of it.

    Example: kntools search " Ottawa" "The capital of Canada is" "The government of Canada sits in its capital,"
    """
    given = dict(locals())
    with friendly(debug):
        prompts = _prompts(target, texts or [], file)
        common.prepare(out, draws)

        import torch

        from kntools.attribution.integrated_gradients import integrated_gradients
        from kntools.attribution.knowledge_neurons import knowledge_neurons

        choose = partial(knowledge_neurons, threshold=threshold, share=share, target_count=(least, most), step=step)
        choose(torch.zeros(1, 1, 1))  # a mistake in these is told before the work, not after it
        loaded = common.load(model, device)
        att = integrated_gradients(
            loaded,
            prompts,
            rule=rule.value,
            steps=steps,
            tol=tol,
            multi_token=multi_token.value,
            prepend_bos=bos,
            max_rows=max_rows,
            progress=common.show_progress(),
        )
        kns = choose(att)
        found = common.check(loaded, att, kns.neurons, draws=draws, seed=seed, max_rows=max_rows)
        files = [] if out is None else _write(out, att, kns, found, common.command_line(search, given))
        if as_json:
            common.print_json(_json(att, kns, found, files))
        else:
            _print(att, kns, found, files)


def _prompts(target: str | None, texts: list[str], file: Path | None) -> list[Prompt]:
    from kntools.data.read import json_lines
    from kntools.prompts import Prompt

    found = []
    if file is not None:
        for row in json_lines(file):
            if "target" not in row.values and target is None:
                raise ValueError(f"{row.where} has no 'target'; write one there, or give the answer as first argument")
            answer = row.text("target") if "target" in row.values else str(target)
            found.append(Prompt(row.text("text"), answer))
    if texts and target is not None:
        found += [Prompt(text, target) for text in texts]
    if not found:
        raise ValueError(
            "no prompts given; type the answer and then the phrasings, e.g. "
            "kntools search ' Ottawa' 'The capital of Canada is' 'The capital of Canada is called', or --file FILE"
        )
    return found


def _write(out: Path, att: Attribution, kns: KnowledgeNeurons, found: common.Check | None, command: str) -> list[str]:
    from kntools.cli.pages import search_page
    from kntools.report import page

    att.save(out / "attribution.safetensors")
    kns.save(out / "knowledge_neurons.safetensors")
    page.write(out / "index.html", search_page(att, kns, found, command))
    names = ("index.html", "attribution.safetensors", "knowledge_neurons.safetensors", "knowledge_neurons.csv",
             "prompts.csv")  # fmt: skip
    return [str(out / name) for name in names]


def _json(att: Attribution, kns: KnowledgeNeurons, found: common.Check | None, files: list[str]) -> dict[str, Any]:
    return {
        "command": "search",
        **att.provenance,
        "prompts": [
            {"text": p.text, "target": p.target, "probability": float(x)}
            for p, x in zip(att.prompts, att.probability, strict=True)
        ],
        "rule": att.rule,
        "largest_residual": float(att.residual.abs().max()),
        "search": kns.settings,
        "share": kns.share,
        "converged": kns.converged,
        "neurons": [
            {"neuron": repr(n), "layer": n.layer, "index": n.index, "score": s, "prompts": c}
            for n, s, c in zip(kns.neurons, kns.scores, kns.counts, strict=True)
        ],
        "check": found.to_json() if found else None,
        "files": files,
    }


def _print(att: Attribution, kns: KnowledgeNeurons, found: common.Check | None, files: list[str]) -> None:
    common.print_table(
        ["prompt", "answer", "probability"],
        [[p.text, repr(p.target), f"{float(x):.4f}"] for p, x in zip(att.prompts, att.probability, strict=True)],
        title="Prompts",
        notes=[""],
    )
    notes = [common.residual_note(att)]
    if len(att.prompts) < 3:
        notes.append(f"note: {len(att.prompts)} prompt(s); with three or more, what is special to a phrasing drops out")
    if not kns.converged:
        wanted = kns.settings["target_count"]
        notes.append(
            f"note: no share of the prompts gives {wanted[0]} to {wanted[1]} neurons; "
            "these are the nearest (--least, --most and --threshold change what is wanted)"
        )
    common.print_table(
        ["neuron", "mean score", "prompts"],
        [
            [repr(n), f"{s:+.4f}", f"{c} of {kns.prompts}"]
            for n, s, c in zip(kns.neurons, kns.scores, kns.counts, strict=True)
        ],
        title=f"Knowledge neurons (in at least {kns.share:.0%} of the prompts' coarse sets)",
        notes=[
            *(n for n in notes if n),
            f"out of {att.scores[0].numel():,} neurons of {att.provenance['model']}, rule {att.rule}, "
            f"largest residual {float(att.residual.abs().max()):.1e}",
            *common.check_lines(found),
            *(f"wrote {f}" for f in files),
        ],
    )
