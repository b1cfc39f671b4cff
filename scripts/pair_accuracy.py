"""How often a causal model finds the good sentence of a minimal pair more probable: BLiMP's standard metric.

    python -m scripts.pair_accuracy --model smollm2-135m determiner_noun_agreement_1 anaphor_number_agreement

`--limit` takes a sample of each paradigm, `--out table.csv` (or `.md`) writes the table that is printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from scipy.stats import binomtest
from torch import Tensor
from tqdm.auto import tqdm

from kntools.data.blimp_pairs import PARADIGMS, MinimalPair, blimp
from kntools.models import adapter
from kntools.models.causality import is_masked
from kntools.options import progress_bar
from scripts import tables

# Tokens in one forward pass: the logits of so many must fit in memory.
_TOKENS_PER_PASS = 512
COLUMNS = ("paradigm", "accuracy", "95% interval", "n")


@dataclass(frozen=True)
class Accuracy:
    """Right answers out of n. A tie (two equal sentences) is not right."""

    correct: int
    n: int

    @property
    def share(self) -> float:
        return self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Wilson's 95 % interval: unlike the usual one it is right near 0 and 1."""
        low, high = binomtest(self.correct, self.n).proportion_ci(method="wilson")
        return float(low), float(high)


def pair_accuracy(
    model: Any,
    pairs: Sequence[MinimalPair],
    *,
    prepend_bos: bool | None = None,
    bos_token: str | None = None,
) -> Accuracy:
    """The share of pairs whose good sentence has the higher log-probability.

    ```python
    pair_accuracy(model, kn.data.blimp("anaphor_number_agreement").records).share
    ```

    Arguments:
        model: a causal model.
        pairs: minimal pairs; they need not be the same but for one token.
        prepend_bos: score the first token too, after BOS; `None` is the model's own default.
        bos_token: begin with this token in place of the tokenizer's BOS. It matters: the BOS of a chat model may be
            what opens a turn, which no plain sentence follows in its training text.

    Returns:
        `Accuracy`.

    Raises:
        ValueError: no pairs, or a masked model (ask it with `kn.data.known(model, pairs.prompts(model))`).
    """
    if not pairs:
        raise ValueError("no pairs to score")
    sentences = [sentence for pair in pairs for sentence in (pair.good, pair.bad)]
    scores = sentence_log_probability(model, sentences, prepend_bos=prepend_bos, bos_token=bos_token)
    return Accuracy(int((scores[0::2] > scores[1::2]).sum()), len(pairs))


def sentence_log_probability(
    model: Any,
    sentences: Sequence[str],
    *,
    prepend_bos: bool | None = None,
    bos_token: str | None = None,
) -> Float[Tensor, " sentence"]:
    """Log-probability of each sentence under a causal model, in nats, on the CPU.

    Without BOS the first token is given, not scored.
    """
    if is_masked(model):
        raise ValueError(
            "a masked model gives no probability to a whole sentence; "
            "use kn.data.known(model, pairs.prompts(model)), which compares the differing tokens"
        )
    ids = _encode(model, sentences, _start(model, prepend_bos, bos_token))
    scores = torch.empty(len(ids))
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    with torch.no_grad(), progress_bar(len(ids), "sentence") as bar:
        for batch in _batches(order, ids):
            tokens = torch.tensor([ids[i] for i in batch], device=adapter.device_of(model))
            logits = model(tokens, return_type="logits")[:, :-1].float()
            gained = logits.log_softmax(-1).gather(-1, tokens[:, 1:, None]).sum((1, 2))
            scores[batch] = gained.cpu()
            bar.update(len(batch))
    return scores


def _start(model: Any, prepend_bos: bool | None, bos_token: str | None) -> list[int]:
    """What every sentence begins with: one token or none."""
    tokenizer = model.tokenizer
    if prepend_bos is False or (prepend_bos is None and not model.cfg.default_prepend_bos and not bos_token):
        return []
    if bos_token is not None and bos_token not in tokenizer.get_vocab():
        raise ValueError(f"bos_token={bos_token!r} is not a token of this model; leave it out for its own BOS")
    bos = tokenizer.bos_token_id if bos_token is None else tokenizer.convert_tokens_to_ids(bos_token)
    if bos is None and prepend_bos:
        raise ValueError("prepend_bos=True, but the tokenizer has no BOS token; use prepend_bos=False")
    return [] if bos is None else [bos]


def _encode(model: Any, sentences: Sequence[str], start: list[int]) -> list[list[int]]:
    ids = [start + list(one) for one in model.tokenizer(list(sentences), add_special_tokens=False)["input_ids"]]
    for sentence, one in zip(sentences, ids, strict=True):
        if len(one) < 2:
            raise ValueError(f"{sentence!r} is a single token: without BOS there is nothing to score")
        if len(one) > adapter.context_length(model):
            raise ValueError(f"{sentence!r} is longer than the model's context")
    return ids


def _batches(order: list[int], ids: list[list[int]]) -> list[list[int]]:
    """Sentences of equal length together, so that nothing needs padding."""
    batches: list[list[int]] = []
    for i in order:
        length = len(ids[i])
        last = batches[-1] if batches else []
        if last and len(ids[last[0]]) == length and (len(last) + 1) * length <= _TOKENS_PER_PASS:
            last.append(i)
        else:
            batches.append([i])
    return batches


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the top of the module."""
    from kntools.models.load import load_model

    parser = argparse.ArgumentParser(prog="python -m scripts.pair_accuracy", description="BLiMP accuracy.")
    add = parser.add_argument
    add("paradigms", nargs="*", help="BLiMP paradigms (default: all 67)")
    add("--model", default="smollm2-135m", help="name or folder, as for kntools.load_model")
    add("--path", help="where BLiMP is (default: $KNTOOLS_DATA, then the hub)")
    add("--limit", type=int, help="pairs per paradigm (default: all)")
    add("--seed", type=int, help="draw the pairs at random (default: the first ones)")
    add("--bos", action=argparse.BooleanOptionalAction, help="begin with BOS (default: as the model)")
    add("--bos-token", help="begin with this token in place of the tokenizer's BOS")
    add("--out", type=Path, help="also write the table: .csv, or .md between its markers")
    add("--marker", default="accuracy", help="name of the place in the .md file (default: accuracy)")
    args = parser.parse_args(argv)

    model = load_model(args.model)
    rows: list[list[object]] = []
    chosen = args.paradigms or list(PARADIGMS)
    with tqdm(chosen, unit="paradigm") as bar:
        for paradigm in bar:
            bar.set_postfix_str(paradigm)
            pairs = blimp(paradigm, path=args.path, limit=args.limit, seed=args.seed)
            found = pair_accuracy(model, pairs.records, prepend_bos=args.bos, bos_token=args.bos_token)
            low, high = found.interval
            rows.append([f"`{paradigm}`", found.share, f"{low:.3f} to {high:.3f}", found.n])
            if args.out is not None:  # after each one: a run over all of BLiMP takes long
                tables.write(args.out, COLUMNS, rows, marker=args.marker)
    print(tables.markdown(COLUMNS, rows))


if __name__ == "__main__":
    main()
