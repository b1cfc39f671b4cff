"""`kntools trace`: which states restore the answer after its subject was corrupted?"""

from typing import Annotated, Any, Literal

from typer import Option

from kntools.arguments import without_effect
from kntools.cli import pages
from kntools.cli.command import command
from kntools.cli.options import ModelOptions, MultiToken, Subject, Target, Text
from kntools.cli.output import Output, Sheet
from kntools.engine.metric_choice import FOIL_METRICS, MetricName
from kntools.plots import trace_panels
from kntools.prompts import Prompt
from kntools.report.page import Chart, Page, PageTable, Section
from kntools.tracing.causal_tracing import causal_trace
from kntools.tracing.restoration import KINDS, Kind, Severed
from kntools.tracing.trace import Trace


@command
def trace(
    text: Text,
    target: Target,
    subject: Subject,
    options: ModelOptions,
    kind: Annotated[Literal[Kind, "all"], Option(help="States to restore; all: the three side by side.")] = "hidden",
    window: Annotated[int | None, Option(min=1, help="Layers restored together for mlp, attn (default: 10).")] = None,
    noise: Annotated[str, Option(help="3sigma, or a standard deviation.")] = "3sigma",
    corrupted: Annotated[str | None, Option(help="A text of as many tokens, instead of noise.")] = None,
    samples: Annotated[int | None, Option(min=1, help="Samples of noise (default: 10).")] = None,
    metric: Annotated[MetricName, Option(help="Metric of the answer.")] = "probability",
    foil: Annotated[str | None, Option(help="The wrong answer, for contrast and two_way.")] = None,
    sever: Annotated[
        Severed | None, Option(help="Fix these outputs of higher layers at their corrupted values.")
    ] = None,
    multi_token: MultiToken = "error",
) -> Output:
    """Trace an answer through the states of a model (causal tracing).

    Example: kntools trace "The Colosseum is located in the city of" " Rome" --subject "The Colosseum"
    """
    if metric not in FOIL_METRICS:
        without_effect(f"with --metric {metric}", foil=foil)
    prompt = Prompt(text, target, subject=subject, foil=foil, multi_token=multi_token)
    try:
        level = noise if noise.endswith("sigma") else float(noise)
    except ValueError:
        raise ValueError(f"--noise {noise!r}; write 3sigma, or a standard deviation such as 0.3") from None
    model = options.load()
    kinds: tuple[Kind, ...] = KINDS if kind == "all" else (kind,)
    shared: dict[str, Any] = {"window": window, "noise": level, "samples": samples, "sever": sever}
    shared |= {"corrupted": corrupted, "metric": metric, "seed": options.seed}
    traces: list[Trace] = [causal_trace(model, prompt, kind=kind, **shared) for kind in kinds]
    first = traces[0]

    def page() -> Page:
        runs = f"{len(first.per_sample)} samples"
        panels = Chart(trace_panels(traces), "Effect of restoring each state on the answer.", n=runs)
        tables = [
            PageTable(t.to_frame(), f"All states: {t.kind}.", csv=f"trace-{t.kind}.csv", folded=True) for t in traces
        ]
        lead = f"Which states restore the answer after {subject!r} was corrupted?"
        return Page(f"Trace: {text} → {target.strip()}", [Section("States", [panels, *tables])], lead)

    data = {
        "prompt": {"text": text, "target": target, "subject": subject},
        "tokens": list(first.tokens),
        **{name: getattr(first, name) for name in ("clean", "corrupted", "total_effect", "metric")},
        "traces": [
            {"kind": t.kind, "window": t.window, "sever": t.sever, "effect": t.effect.tolist(), "leading": t.preview()}
            for t in traces
        ],
    }
    sheets = [Sheet(t.describe(), t.preview().assign(token=lambda frame: frame["token"].map(repr))) for t in traces]
    results = {f"trace-{t.kind}": t for t in traces}
    return pages.page_output(options, first.provenance, sheets, data, page, **results)
