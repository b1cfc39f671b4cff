"""Metrics: closures from logits to one value per row. Averaging is the caller's choice.

They take the logits `[row d_vocab]` of one position, or `[row pos d_vocab]` of several with as many ids (the
pieces of one answer under teacher forcing). Softmax is always computed in float32 at least.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from kntools.arguments import shown, tensor, whole_numbers

#: Two values of a metric that differ by this share of them differ by rounding: passes of other sizes add up otherwise.
ROUNDING = 1e-4

Ids = SupportsIndex | Sequence[SupportsIndex] | Tensor

#: What metrics of these names are in.
UNITS = {
    "log_probability": "log-probability (nats)",
    "logit": "logit of the answer",
    "contrast": "logit of the answer minus logit of the foil",
    "logit_difference": "logit of the answer minus logit of the foil",
    "two_way": "P(answer) against the foil",
    "kl_divergence": "KL divergence from the clean run (nats)",
}

#: Those from 0 to 1.
PROBABILITIES = ("probability", "two_way")


def alike(one: float, other: float) -> bool:
    """Do two values of a metric differ by rounding alone? Then nothing is to be divided by their difference."""
    return math.isclose(one, other, rel_tol=ROUNDING)


def log_probability(ids: Ids) -> Callable[[Tensor], Float[Tensor, " row"]]:
    """Log-probability of an answer; of several tokens, the sum.

    ```python
    kn.log_probability(encoded.target_ids)(logits)
    ```
    """
    wanted = _token_ids(ids)

    def metric(logits: Tensor) -> Tensor:
        per_piece = _per_piece(logits, len(wanted), wanted)
        at = torch.tensor(wanted, device=logits.device).expand(per_piece.shape[:2])
        # Cross entropy is the log-softmax of one entry, without a second copy of the whole vocabulary.
        loss = torch.nn.functional.cross_entropy(per_piece.flatten(0, 1), at.flatten(), reduction="none")
        return -loss.view(at.shape).sum(-1)

    return metric


def probability(ids: Ids) -> Callable[[Tensor], Float[Tensor, " row"]]:
    """Probability of an answer; of several tokens, the product.

    ```python
    p = kn.sweep(model, tokens, hooks, metric=kn.probability(answer_id))
    ```
    """
    log_p = log_probability(ids)
    return lambda logits: log_p(logits).exp()


def logit(ids: Ids) -> Callable[[Tensor], Float[Tensor, " row"]]:
    """Logit of an answer; those of the pieces of a longer one add up."""
    wanted = _token_ids(ids)

    def metric(logits: Tensor) -> Tensor:
        per_piece = _per_piece(logits, len(wanted), wanted)
        return per_piece[:, range(len(wanted)), wanted].sum(-1)

    return metric


@dataclass(frozen=True)
class LogitDifference:
    """A metric that reads the logits of two tokens alone, which a pass can make without those of all others."""

    __name__ = "metric"  # what results call it: its tokens need not be a prompt's answer and foil

    target: int
    foil: int

    def __call__(self, logits: Tensor) -> Float[Tensor, " row"]:
        one_piece = _per_piece(logits, 1, (self.target, self.foil))[:, 0]
        return one_piece[:, self.target] - one_piece[:, self.foil]

    def among(self, tokens: Sequence[int]) -> "LogitDifference":
        """The same metric of the logits of these tokens."""
        return LogitDifference(tokens.index(self.target), tokens.index(self.foil))


def logit_difference(target: Ids, foil: Ids) -> LogitDifference:
    """Logit of `target` minus logit of `foil`, at one position; each is one token.

    ```python
    [target], [foil] = encoded.target_ids, encoded.foil_ids
    grid = kn.activation_patch(model, clean, corrupted, site="z", metric=kn.logit_difference(target, foil))
    ```
    """
    wanted = (*_token_ids(target), *_token_ids(foil))
    if len(wanted) != 2:
        raise ValueError(f"target={target!r}, foil={foil!r}; give one token id each")
    return LogitDifference(*wanted)


def kl_divergence(reference: Float[Tensor, " d_vocab"]) -> Callable[[Tensor], Float[Tensor, " row"]]:
    """KL(reference || row) in nats, of the distribution with logits `reference`, at one position.

    ```python
    clean = model(tokens)[0, -1]
    moved = kn.sweep(model, tokens, hooks, metric=kn.kl_divergence(clean))
    ```
    """
    base = _wide(tensor("reference", reference, "[d_vocab]: logits of another run", finite=False)).log_softmax(-1)

    def metric(logits: Tensor) -> Tensor:
        ours = _per_piece(logits, 1)[:, 0].log_softmax(-1)
        if base.shape != ours.shape[1:]:
            raise ValueError(f"the reference has {tuple(base.shape)} logits, each row {ours.shape[1]}; give [d_vocab]")
        p = base.to(ours)
        # A token that the reference rules out (probability 0) counts nothing, whatever the row says of it.
        terms = torch.where(p > -torch.inf, p.exp() * (p - ours), 0.0)
        return terms.sum(-1)

    return metric


def _token_ids(ids: Ids) -> tuple[int, ...]:
    """Ids of tokens, one or several: which they are of a text, only a model's tokenizer knows."""
    try:
        return whole_numbers("ids", ids)
    except TypeError:
        raise TypeError(
            f"{shown(ids)} is not a token id; encoded = kn.encode(model, prompt) has those of an answer: "
            "kn.probability(encoded.target_ids)"
        ) from None


def _wide(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _per_piece(logits: Tensor, pieces: int, ids: Sequence[int] = ()) -> Float[Tensor, "row piece d_vocab"]:
    if logits.ndim not in (2, 3):
        raise ValueError(f"logits must be [row d_vocab] or [row pos d_vocab], not {tuple(logits.shape)}")
    out = _wide(logits if logits.ndim == 3 else logits[:, None])
    if out.shape[1] != pieces:
        raise ValueError(f"{pieces} token id(s) for the logits of {out.shape[1]} position(s); give one id per position")
    for i in ids:
        if not 0 <= i < logits.shape[-1]:
            raise IndexError(f"token id {i} does not exist: the vocabulary has {logits.shape[-1]}")
    return out
