"""`kntools trace`: which states bring the answer back after its subject was corrupted?"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kntools.cli import common, options
from kntools.cli.errors import friendly

if TYPE_CHECKING:
    from kntools.tracing.trace import Trace


class Kind(StrEnum):
    """What is restored; see `causal_trace`."""

    hidden = "hidden"
    mlp = "mlp"
    attn = "attn"
    all = "all"


class Sever(StrEnum):
    """What is held at its corrupted values; see `causal_trace`."""

    mlp = "mlp"
    attn = "attn"


def trace(
    text: Annotated[str, typer.Argument(help="The words before the answer, or with one [MASK] for a masked model.")],
    target: Annotated[str, typer.Argument(help="The answer, e.g. ' Rome'.")],
    subject: Annotated[str, typer.Option("--subject", "-s", help="The words to corrupt, as they stand in the text.")],
    model: options.Model = options.DEFAULT_MODEL,
    kind: Annotated[Kind, typer.Option(help="What to restore: one of them, or all three side by side.")] = Kind.hidden,
    window: Annotated[int, typer.Option(help="Layers restored together for mlp and attn.")] = 10,
    noise: Annotated[str, typer.Option(help="3sigma, or a standard deviation.")] = "3sigma",
    samples: Annotated[int, typer.Option(help="Samples of noise.")] = 10,
    sever: Annotated[Sever | None, typer.Option(help="Hold these outputs at their corrupted values above.")] = None,
    multi_token: options.MultiTokenOption = options.MultiToken.error,
    bos: options.Bos = None,
    seed: Annotated[int, typer.Option(help="Seed of the noise.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for a figure (index.html), safetensors and tables (CSV).")
    ] = None,
    as_json: options.Json = False,
    device: options.Device = None,
    max_rows: options.MaxRows = None,
    debug: options.Debug = False,
) -> None:
    """Trace an answer through the states of a model (causal tracing).

    Example: kntools trace "The Colosseum is located in the city of" " Rome" --subject "The Colosseum"
    """
    with friendly(debug):
        from kntools.prompts import Prompt

        common.prepare(out, 0)
        prompt = Prompt(text, target, subject=subject)
        level: str | float = noise if noise.endswith("sigma") else _number(noise)
        loaded = common.load(model, device)

        from kntools.tracing.causal_tracing import KINDS, causal_trace

        traces = [
            causal_trace(
                loaded,
                prompt,
                kind=one,
                window=window,
                noise=level,
                samples=samples,
                sever=None if sever is None else sever.value,
                seed=seed,
                multi_token=multi_token.value,
                prepend_bos=bos,
                max_rows=max_rows,
                progress=common.show_progress(),
            )
            for one in (KINDS if kind is Kind.all else (kind.value,))
        ]
        files = [] if out is None else _write(out, traces)
        if as_json:
            common.print_json(_json(traces, files))
        else:
            _print(traces, files)


def _number(noise: str) -> float:
    try:
        return float(noise)
    except ValueError:
        raise ValueError(f"--noise {noise!r}; write 3sigma, or a standard deviation such as 0.3") from None


def _write(out: Path, traces: list[Trace]) -> list[str]:
    from kntools.plots.tokens import trace_panels

    files = [out / "index.html"]
    trace_panels(traces).write_html(files[0], include_plotlyjs=True)
    for one in traces:
        files += [one.save(out / f"trace-{one.kind}.safetensors"), out / f"trace-{one.kind}.csv"]
        one.to_frame().to_csv(files[-1], index=False)
    return [str(f) for f in files]


def _leading(one: Trace) -> list[dict[str, Any]]:
    """The state with the largest effect of each role."""
    frame = one.to_frame()
    best = frame.loc[frame.groupby("role", sort=False)["effect"].idxmax()]
    return best[["role", "position", "token", "layer", "score", "effect"]].to_dict("records")


def _json(traces: list[Trace], files: list[str]) -> dict[str, Any]:
    first = traces[0]
    return {
        "command": "trace",
        **first.provenance,
        "prompt": {"text": first.prompt.text, "target": first.prompt.target, "subject": first.prompt.subject},
        "tokens": list(first.tokens),
        "clean": first.clean,
        "corrupted": first.corrupted,
        "total_effect": first.total_effect,
        "traces": [
            {"kind": t.kind, "window": t.window, "sever": t.sever, "effect": t.effect.tolist(), "leading": _leading(t)}
            for t in traces
        ],
        "files": files,
    }


def _print(traces: list[Trace], files: list[str]) -> None:
    for number, one in enumerate(traces):
        cut = f", {one.sever} severed" if one.sever else ""
        common.print_table(
            ["role", "token", "layer", "effect"],
            [[row["role"], repr(row["token"]), str(row["layer"]), f"{row['effect']:+.4f}"] for row in _leading(one)],
            title=f"{one.kind}{cut}: {one.prompt.text!r} -> {one.prompt.target!r}: clean {one.clean:.4f}, "
            f"corrupted {one.corrupted:.4f}",
            notes=[f"wrote {f}" for f in files] if number == len(traces) - 1 else [],
        )
