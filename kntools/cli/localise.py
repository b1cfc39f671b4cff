"""`kntools localise`: how localised agreement and facts are, and in which layers."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kntools.cli import common, options
from kntools.cli.errors import friendly

if TYPE_CHECKING:
    from kntools.analyses.fig02_pair_search import PairSearch
    from kntools.analyses.fig03_localisation import Localisation

# What Niu et al. 2024 found in bert-base-cased: the plural and the singular determiner neuron.
_LANDMARKS = ("9.1094", "10.2096")
_PARADIGM = "determiner_noun_agreement_2"
_DEFAULT = (_PARADIGM, "P36")


class Preset(StrEnum):
    """`paper`: the published rule and paradigm, all pairs, and the shares of the published neurons."""

    none = "none"
    paper = "paper"


class Null(StrEnum):
    """What chance gives; see `kntools.analyses.fig03_localisation`."""

    neurons = "neurons"
    answers = "answers"


def localise(
    sources: Annotated[
        list[str] | None, typer.Argument(help=f"BLiMP paradigms and ParaRel relations (default: {' '.join(_DEFAULT)}).")
    ] = None,
    model: options.Model = options.DEFAULT_MODEL,
    preset: Annotated[
        Preset, typer.Option(help="paper: the settings published for bert-base-cased, with its two neurons.")
    ] = Preset.none,
    limit: Annotated[
        int | None, typer.Option(help="Pairs or facts per paradigm or relation (default: 20; with a preset, all).")
    ] = None,
    frames: Annotated[int, typer.Option(help="Sentences per determiner-noun pair.")] = 10,
    landmark: Annotated[
        list[str] | None,
        typer.Option(help="A neuron (layer.index) whose share of the pairs is wanted; may be repeated."),
    ] = None,
    known: Annotated[bool, typer.Option("--known", help="Only pairs and facts that the model gets right.")] = False,
    null: Annotated[Null, typer.Option(help="What chance gives: random neurons, or shuffled answers.")] = Null.neurons,
    seed: Annotated[int, typer.Option(help="Of the sample and the null.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder for figures, tables (CSV, JSON), and the run: goes on after a kill."),
    ] = None,
    as_json: options.Json = False,
    bos: options.Bos = None,
    device: options.Device = None,
    max_rows: options.MaxRows = None,
    debug: options.Debug = False,
) -> None:
    """Search knowledge neurons per pair or fact: how many, how alike (R1^2), in which layers.

    Example: kntools localise determiner_noun_agreement_2 P36 P101 --limit 20 --out localised
    """
    with friendly(debug):
        from kntools.analyses.prompt_groups import is_relation

        paper = preset is Preset.paper
        names = sources or [_PARADIGM] if paper else sources or list(_DEFAULT)
        for name in names:
            is_relation(name)  # an unknown name is told before a model is loaded
        loaded = common.load(model, device)

        from dataclasses import replace

        from kntools.analyses.fig02_pair_search import pairs_of
        from kntools.analyses.fig03_localisation import localisation
        from kntools.analyses.fig04_layer_distribution import layer_distribution
        from kntools.analyses.fig07_probability_shift import parse_neurons
        from kntools.analyses.neuron_search import PAPER, SearchSettings
        from kntools.analyses.prompt_groups import prompt_groups
        from kntools.analyses.word_probabilities import checked_neurons

        marks = parse_neurons(landmark or (_LANDMARKS if paper else ()))
        if marks:
            checked_neurons(loaded, marks)
        settings = replace(PAPER if paper else SearchSettings(), prepend_bos=bos, max_rows=max_rows)
        most = limit if limit is not None or paper else 20
        groups = [
            group
            for name in names
            for group in prompt_groups(
                loaded, name, frames=frames, limit=most, seed=seed, known_only=known, prepend_bos=bos
            )
        ]
        found = localisation(
            loaded,
            groups,
            settings=settings,
            null=null.value,
            seed=seed,
            run=None if out is None else out / "run",
            progress=common.show_progress(),
        )
        searched = pairs_of(found, groups) if any(g.label("determiner") for g in groups) else None
        layers = layer_distribution(found, n_layers=int(loaded.cfg.n_layers), seed=seed)
        shares = None if searched is None else searched.shares(marks or None)
        files = [] if out is None else _write(out, found, layers, searched)
        if as_json:
            common.print_json(
                {
                    "command": "localise",
                    **found.header,
                    "summary": found.summary().to_dict("records"),
                    "difference": found.difference().to_dict("records"),
                    "shares": None if shares is None else shares.to_dict("records"),
                    "layers": layers.to_frame().to_dict("records"),
                    "files": files,
                }
            )
            return
        _print(found, layers, shares, files, paper)


def _write(out: Path, found: Localisation, layers: Any, searched: PairSearch | None) -> list[str]:
    from kntools.analyses import command
    from kntools.analyses import fig02_pair_search as pair_search
    from kntools.analyses import fig03_localisation as localisation

    files = [*localisation.write(found, out / "localisation"), *command.write(layers, out / "layers")]
    files += pair_search.write(searched, out / "pairs") if searched is not None else []
    return [str(f) for f in files]


def _print(found: Localisation, layers: Any, shares: Any, files: list[str], paper: bool) -> None:
    rows = [
        [
            r["source"], str(r["groups"]), *(f"{r[m]:.2f} [{r[f'{m}_low']:.2f}, {r[f'{m}_high']:.2f}]"
            for m in ("count", "tau", "r1")), f"{r['null_r1']:.2f}",
        ]
        for r in found.summary().to_dict("records")
    ]  # fmt: skip
    columns = ["paradigm or relation", "n", "|KN|", "tau", "R1^2", "null R1^2"]
    notes = [layers.describe(), *(f"wrote {f}" for f in files)]
    common.print_table(columns, rows, title=found.describe(), notes=notes)
    if shares is None or shares.empty:
        return
    table = [
        [
            r["neuron"], r["determiner"], f"{r['share']:.0%}", f"{r['low']:.0%} to {r['high']:.0%}", str(r["pairs"]),
            f"{r['opposite']:.0%}",
        ]
        for r in shares.to_dict("records")
    ]  # fmt: skip
    published = (
        "published for bert-base-cased: L9.N1094 in 100 % of these/those, L10.N2096 in 93 % of this, 75 % of that"
    )
    common.print_table(
        ["neuron", "determiner", "share of pairs", "95 %", "pairs", "other number"], table,
        title="Determiner-noun pairs in which a neuron is a knowledge neuron", notes=[published] if paper else [],
    )  # fmt: skip
