"""The metric in which prompts are asked: a name, made for the answer of each; or a function of the logits.

One table for attribution, patching, tracing and scans.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

from kntools import metrics
from kntools.engine.sweep import sweep
from kntools.engine.values import Metric, per_prompt
from kntools.prompts import Encoded

#: `"contrast"` is the logit of the target minus that of the foil (`"logit_difference"` is the same); `"kl_divergence"`
#: is from the run of the prompt as it is; `"two_way"` is P(target) / (P(target) + P(foil)).
MetricName = Literal[
    "probability", "log_probability", "logit", "contrast", "logit_difference", "two_way", "kl_divergence"
]
#: Those that are the higher, the better the answer.
RISING = ("probability", "log_probability", "logit", "contrast", "logit_difference", "two_way")
#: Those that compare the answer with the foil.
FOIL_METRICS = ("contrast", "logit_difference", "two_way")
#: One for all prompts, or one per prompt. `None` is the contrast where every prompt has a foil, else the probability.
Metrics = Metric | Sequence[Metric] | MetricName | None


def choose_metrics(model: Any, encoded: Sequence[Encoded], given: Metrics | str) -> tuple[list[Metric], str]:
    """One metric per prompt, and what it is called."""
    if given is None:
        given = "contrast" if all(map(has_contrast, encoded)) else "probability"
    if isinstance(given, str):
        if given not in _NAMED:
            names = ", ".join(map(repr, get_args(MetricName)))
            raise ValueError(f"unknown metric {given!r}; use one of {names}, or a function of logits [row d_vocab]")
        return [_NAMED[given](model, e) for e in encoded], given
    each = per_prompt(given, len(encoded), "a name such as 'probability', a function of logits")
    if not callable(given):
        return each, "one per prompt"
    name = getattr(given, "__name__", type(given).__name__)
    return each, name if name.isidentifier() and name not in _NAMED else "metric"


def has_contrast(encoded: Encoded) -> bool:
    return encoded.foil_ids is not None and len(encoded.foil_ids) == len(encoded.target_ids) == 1


def contrast(encoded: Encoded) -> Metric:
    """Logit of the answer minus logit of the foil, for an answer and a foil of one token each."""
    if not has_contrast(encoded) or encoded.foil_ids is None:
        p = encoded.prompt
        how = "; multi_token='first' asks for the first token of each" if len(encoded.target_ids) > 1 else ""
        raise ValueError(
            f"a contrast needs a foil of one token: kn.Prompt({p.text!r}, {p.target!r}, foil={p.foil or ' ...'!r}){how}"
        )
    return metrics.logit_difference(encoded.target_ids[0], encoded.foil_ids[0])


def _two_way(model: Any, encoded: Encoded) -> Metric:
    difference = contrast(encoded)
    return lambda logits: difference(logits).sigmoid()


def _kl(model: Any, encoded: Encoded) -> Metric:
    if len(encoded.positions) != 1:
        raise ValueError("kl_divergence needs a single position; use Prompt(..., multi_token='first')")
    [reference] = sweep(model, encoded, [()])
    return metrics.kl_divergence(reference)


_NAMED: dict[str, Callable[[Any, Encoded], Metric]] = {
    "probability": lambda model, encoded: metrics.probability(encoded.target_ids),
    "log_probability": lambda model, encoded: metrics.log_probability(encoded.target_ids),
    "logit": lambda model, encoded: metrics.logit(encoded.target_ids),
    "contrast": lambda model, encoded: contrast(encoded),
    "logit_difference": lambda model, encoded: contrast(encoded),
    "two_way": _two_way,
    "kl_divergence": _kl,
}
