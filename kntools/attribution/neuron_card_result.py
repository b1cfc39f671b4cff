"""What is known of one neuron: what it writes, what switches it on, and what it does in a prompt."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import pandas as pd
from jaxtyping import Float
from torch import Tensor

from kntools.prompts import Prompt
from kntools.results.display import number
from kntools.results.result import Figure, Result
from kntools.sites import Neuron

#: A token and its weight.
TokenWeights = tuple[tuple[str, float], ...]
_REVERSED = (
    "Its activation in the prompt is negative: there it suppresses the tokens that it promotes, and the reverse."
)
_POSITIVE, _NEGATIVE = "219,58,36", "40,120,220"  # readable behind dark and light text
_STRONGEST = 0.55


@dataclass(frozen=True)
class Context:
    """A piece of text in which a neuron is active: some tokens before and after the one where it is most so."""

    tokens: tuple[str, ...]
    activations: Float[Tensor, " token"]
    peak: int  # which of these tokens
    text: int  # number of the text among those that were read
    start: int  # number of the first of these tokens within the text

    @property
    def highest(self) -> float:
        return float(self.activations[self.peak])


@dataclass(frozen=True)
class Activation:
    """How active a neuron is in texts, special tokens left out."""

    tokens: int
    mean: float
    active: float  # share of tokens with an activation above 0
    quantiles: dict[str, float]  # "0.5" -> median


@dataclass(frozen=True)
class InPrompt:
    prompt: Prompt
    activation: float
    integrated_gradient: float  # of the answer's probability
    direct: float | None  # contribution to the answer's logit, every norm's scale held; None if the head is not linear
    effect: float  # change of the answer's probability when the neuron is set to 0
    probability: float


@dataclass(frozen=True, eq=False, repr=False)
class NeuronCard(Result):
    """A neuron: promoted tokens, contexts, and its effect in a prompt.

    ```python
    card.promoted, card.suppressed        # ((" cities", 2.71), ...): dot product of value and unembedding
    card.contexts[0].tokens, card.contexts[0].activations
    card.activation.mean, card.activation.active, card.activation.quantiles["0.99"]
    card.in_prompt.direct, card.in_prompt.effect
    ```
    """

    neuron: Neuron
    promoted: TokenWeights
    suppressed: TokenWeights
    promoted_cosine: tuple[float, ...]  # of the same tokens
    suppressed_cosine: tuple[float, ...]
    note: str  # why no tokens are promoted; empty if there are some
    contexts: tuple[Context, ...]
    activation: Activation | None  # None without texts
    in_prompt: InPrompt | None
    provenance: dict[str, Any]

    def describe(self) -> str:
        words = ", ".join(repr(token) for token, _ in self.promoted[:3])
        return f"Neuron {self.neuron!r} ({self.provenance['model']}){': promotes ' + words if words else ''}"

    def to_frame(self) -> pd.DataFrame:
        """One row per token: `kind` (promoted, suppressed), `token`, `weight` (dot product), `cosine`."""
        rows = [
            {"kind": kind, "token": token, "weight": weight, "cosine": cosine}
            for kind, pairs, cosines in (
                ("promoted", self.promoted, self.promoted_cosine),
                ("suppressed", self.suppressed, self.suppressed_cosine),
            )
            for (token, weight), cosine in zip(pairs, cosines, strict=True)
        ]
        return pd.DataFrame(rows, columns=["kind", "token", "weight", "cosine"])

    def tables(self) -> dict[str, pd.DataFrame]:
        """`contexts`: one row per token of each; `in_prompt` and `activation`: one row."""
        contexts = [
            {"context": number, "text": c.text, "token": token, "activation": value}
            for number, c in enumerate(self.contexts)
            for token, value in zip(c.tokens, c.activations.tolist(), strict=True)
        ]
        found = {"contexts": pd.DataFrame(contexts, columns=["context", "text", "token", "activation"])}
        return found | {name: pd.DataFrame([facts]) for name, facts in self._facts().items()}

    def plot(self, **options: Any) -> Figure:
        """Bars of the tokens that the neuron promotes and suppresses: `kntools.plots.bar_chart`."""
        from kntools.plots import bar_chart
        from kntools.plots.theme import plain

        # By number: tokens of different bytes may be decoded to one text.
        frame = self.to_frame()
        frame["row"], frame["token"] = frame.index.map(str), frame["token"].map(repr)
        look = {"title": self.describe(), "color": "kind", "labels": {"row": ""}}
        look["hover_data"] = {"row": False, "token": True, "cosine": True}
        figure = bar_chart(frame, "weight", "row", **{**look, **options})
        return figure.update_yaxes(tickvals=frame["row"], ticktext=frame["token"].map(plain))

    def _facts(self) -> dict[str, dict[str, float | int | None]]:
        found: dict[str, dict[str, float | int | None]] = {}
        if self.in_prompt is not None:
            p = self.in_prompt
            found["in_prompt"] = {
                "activation": p.activation,
                "direct contribution to the logit": p.direct,
                "integrated gradient": p.integrated_gradient,
                "effect of switching off": p.effect,
                "probability of the answer": p.probability,
            }
        if self.activation is not None:
            a = self.activation
            quantiles = {f"quantile {at}": value for at, value in a.quantiles.items()}
            found["activation"] = {"tokens": a.tokens, "mean": a.mean, "share active": a.active, **quantiles}
        return found

    def _reversed(self) -> list[str]:
        return [_REVERSED] if self.in_prompt is not None and self.in_prompt.activation < 0 else []

    def __repr__(self) -> str:
        lines = [super().__repr__()]
        for name, facts in self._facts().items():
            values = ", ".join(f"{what} {_shown(value)}" for what, value in facts.items() if value is not None)
            lines.append(f"{name.replace('_', ' ')}: {values}")
        return "\n".join([*lines, *self._reversed()])

    def _repr_html_(self) -> str:
        parts = [f"<h3>{escape(self.describe())}</h3>"]
        if self.note:
            parts.append(f"<p>{escape(self.note)}</p>")
        for name, pairs in (("Promotes", self.promoted), ("Suppresses", self.suppressed)):
            if pairs:
                strongest = max(abs(weight) for _, weight in pairs)
                words = " ".join(_shaded(repr(token)[1:-1], weight, strongest) for token, weight in pairs)
                parts.append(f"<p><b>{name}</b> {words}</p>")
        if self.in_prompt is not None:
            p = self.in_prompt.prompt
            parts.append(f"<p><b>In</b> {escape(p.text)} → {escape(p.target)}</p>")
            parts += [f"<p>{note}</p>" for note in self._reversed()]
        parts += [_rows(facts) for facts in self._facts().values()]
        if self.contexts:
            items = "".join(f"<li style='white-space:pre-wrap'>{_context(c)}</li>" for c in self.contexts)
            parts.append(f"<p><b>Most active in</b></p><ol>{items}</ol>")
        return f"<div style='font-family:system-ui,sans-serif;line-height:1.7'>{''.join(parts)}</div>"


def _context(context: Context) -> str:
    strongest = float(context.activations.abs().max())
    values = context.activations.tolist()
    words = [_shaded(t, v, strongest) for t, v in zip(context.tokens, values, strict=True)]
    return f"<code>{number(context.highest)}</code> {''.join(words)}"


def _shaded(text: str, value: float, strongest: float) -> str:
    """A text on a transparent colour: the page's own colours stay, light or dark."""
    strength = _STRONGEST * abs(value) / strongest if strongest else 0.0
    colour = _POSITIVE if value > 0 else _NEGATIVE
    return f"<span title='{number(value)}' style='background:rgba({colour},{strength:.2f})'>{escape(text)}</span>"


def _shown(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else number(value)


def _rows(facts: dict[str, float | int | None]) -> str:
    shown = {name: "" if value is None else _shown(value) for name, value in facts.items()}
    cells = (f"<th align=left>{escape(name)}</th><td align=right>{value}</td>" for name, value in shown.items())
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def cards_page(cards: Sequence[NeuronCard]) -> str:
    style = "<style>:root{color-scheme:light dark}body{max-width:60rem;margin:2rem auto;padding:0 1rem}</style>"
    body = "<hr>".join(card._repr_html_() for card in cards)
    return f"<!doctype html><meta charset='utf-8'><title>Neurons</title>{style}{body}\n"
