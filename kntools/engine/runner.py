"""Runs interventions on prompts of equal length, in as few and as full forward passes as it can."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, SupportsIndex, TypeVar, cast

from torch import Tensor

from kntools.engine import plan
from kntools.engine.capability import capability
from kntools.engine.embedding import embed
from kntools.engine.forward import ForwardPass, NotBatched, PassOutput
from kntools.engine.memory import is_out_of_memory, rows_that_fit
from kntools.engine.plain import run_plain
from kntools.engine.plan import Intervention, Item, Pass
from kntools.models import adapter
from kntools.models.prefix import BridgePrefix, HookedPrefix, Rows
from kntools.sites import Positions, resolve_positions

T = TypeVar("T")


class Runner:
    """Prompts of equal length, the positions whose logits are asked for, and the kept beginnings of the prompts.

    One runner can serve several rounds (an adaptive rule asks again); what it kept stays valid.
    """

    def __init__(
        self,
        model: Any,
        tokens: Tensor,
        pos: Positions | Sequence[Positions] = -1,
        *,
        max_rows: int | None = None,
        embedding: plan.Embedding | None = None,
    ) -> None:
        if max_rows is not None and max_rows < 1:
            raise ValueError(f"max_rows={max_rows}; it must be at least 1, or None to choose it from free memory")
        self.model, self.tokens, self.max_rows = model, as_batch(model, tokens), max_rows
        self.asked = _asked(pos, self.tokens)
        self.embedding = embedding
        self.embedded = None if embedding is None else embed(model, self.tokens, embedding)
        self._prefixes: dict[tuple[int, tuple[int, ...]], BridgePrefix | HookedPrefix] = {}

    def run(
        self, interventions: Sequence[Intervention], finish: Callable[[PassOutput], T], *, gradients: bool = False
    ) -> Iterator[tuple[int, T]]:
        """Run all; for each pass, as soon as it is done: how many interventions it held, and `finish(result)`.

        `finish` is where a backward pass belongs: when memory runs out in it, the pass is split and run again.
        """
        plan.check(interventions, self.tokens)
        can = capability(self.model, self.tokens)
        length = self.tokens.shape[1]
        layers = adapter.n_layers(self.model)
        items = plan.make_items(
            interventions,
            layers=layers,
            length=length,
            asked=self.asked,
            reuse=can.prefix,
            embedding=self.embedding,
        )
        if not can.fork:
            for item in items:
                yield 1, finish(self._plain(item, gradients))
            return
        window = length - min((i.start for i in items), default=0)
        fit = self.max_rows or rows_that_fit(self.model, window, gradients=gradients)
        todo = plan.make_passes(items, max_rows=fit)
        while todo:
            one = todo.pop(0)
            try:
                done = finish(self._shared(one, gradients))
            except NotBatched:
                for item in one.items:
                    yield 1, finish(self._plain(item, gradients))
                continue
            except Exception as error:
                if not is_out_of_memory(error) or len(one.items) == 1:
                    raise
                # What did not fit once will not fit in the passes to come.
                fit = max(1, one.rows // 2)
                todo = plan.make_passes([i for p in (one, *todo) for i in p.items], max_rows=fit)
                continue
            yield len(one.items), done

    def _shared(self, one: Pass, gradients: bool) -> PassOutput:
        one_pass = ForwardPass(self.model, self.tokens, self.asked, one, self._prefix, self.embedded)
        return one_pass.run(gradients=gradients)

    def _plain(self, item: Item, gradients: bool) -> PassOutput:
        if item.fork != -1:
            item = replace(item, intervention=plan.with_embedding(item.intervention, self.embedding))
        return run_plain(self.model, self.tokens, self.asked, item, gradients=gradients)

    def _prefix(self, start: int, prompts: list[int], rows: Rows) -> BridgePrefix | HookedPrefix:
        key = (start, tuple(prompts))
        if key not in self._prefixes:
            residual = None if self.embedded is None else self.embedded[prompts, :start]
            self._prefixes[key] = adapter.build_prefix(self.model, self.tokens[prompts, :start], rows, residual)
        kept = self._prefixes[key]
        kept.use(rows)
        return kept


def as_batch(model: Any, tokens: Tensor) -> Tensor:
    """Tokens as `[prompt pos]` on the model's device."""
    batch = tokens[None] if tokens.ndim == 1 else tokens
    if batch.ndim != 2 or batch.shape[1] == 0 or batch.is_floating_point():
        raise ValueError(
            f"tokens must be token ids [prompt pos], at least one; got {batch.dtype} {tuple(tokens.shape)}"
        )
    limit = adapter.context_length(model)
    if batch.shape[1] > limit:
        raise ValueError(f"{batch.shape[1]} tokens, but the model's context holds {limit}")
    return batch.to(adapter.device_of(model))


def _asked(pos: Positions | Sequence[Positions], tokens: Tensor) -> list[tuple[int, ...]]:
    """Asked positions of each prompt. A list of sequences has one entry per prompt."""
    length = tokens.shape[1]
    if isinstance(pos, list | tuple) and pos and not all(isinstance(p, SupportsIndex) for p in pos):
        if len(pos) != tokens.shape[0]:
            raise ValueError(f"positions for {len(pos)} prompts, but there are {tokens.shape[0]}")
        per_prompt = [resolve_positions(p, length) for p in pos]
    else:
        per_prompt = [resolve_positions(cast(Positions, pos), length)] * tokens.shape[0]
    if len({len(p) for p in per_prompt}) != 1 or not per_prompt[0]:
        raise ValueError("every prompt must ask for the same number of positions, at least one")
    return per_prompt
