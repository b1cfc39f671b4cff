"""Tokens that follow texts, one by one: with kept keys and values where the model allows it, else in whole runs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kntools import randomness
from kntools.arguments import decimal, whole, without_effect
from kntools.engine.capability import capability, close, of_longer, probe_text, works
from kntools.engine.forward import MustFire, PassHook, Pick, by_row
from kntools.engine.inputs import alike
from kntools.hooks.positioned import PositionedHook, StatefulHook, is_local
from kntools.models import adapter
from kntools.models.attachment import with_hooks
from kntools.models.causality import is_masked
from kntools.models.modules import answers, once
from kntools.models.neuron_layers import check_hook
from kntools.options import options, progress_bar
from kntools.sites import ANSWER, Hook, resolve_positions

#: From the logits of the next token to the token, for each row.
Choose = Callable[[Float[Tensor, "row d_vocab"]], Int[Tensor, " row"]]

# So many steps are compared with a whole run.
_TRIED = 8


@dataclass(frozen=True)
class Drawing:
    """Which token comes next: the most probable one at temperature 0, else one that each row draws by itself; with a
    `generator`, the rows draw from that one in turn.
    """

    temperature: float = 0.0
    top_k: int | None = None
    seed: int = 0
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        decimal("temperature", self.temperature, least=0)
        whole("seed", self.seed)
        if self.top_k is not None:
            whole("top_k", self.top_k, least=1)
        if self.temperature == 0:
            without_effect("at temperature=0, which takes the most probable token", top_k=self.top_k)

    def chooser(self, rows: Sequence[int]) -> Choose:
        """For these rows, whatever others there are."""
        if self.temperature == 0:
            return lambda logits: logits.argmax(-1)
        if self.generator is not None:
            return partial(self._draw, generator=self.generator)
        generators = [randomness.generator(self.seed + n) for n in rows]
        return lambda logits: torch.cat(list(map(self._draw, logits.split(1), generators)))

    def _draw(self, logits: Float[Tensor, "row d_vocab"], generator: torch.Generator) -> Int[Tensor, " row"]:
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            logits = logits.masked_fill(logits < logits.topk(self.top_k).values[:, -1:], -torch.inf)
        below = logits - logits.amax(-1, keepdim=True)  # the highest stays finite, however small the temperature
        return torch.multinomial((below / self.temperature).softmax(-1), 1, generator=generator)[:, 0]


def continue_tokens(
    model: Any,
    rows: Sequence[Tensor],
    count: int,
    draw: Drawing,
    hooks: Sequence[Hook] = (),
    *,
    edits: Sequence[Sequence[Hook]] | None = None,
    ended: Callable[[Int[Tensor, "row new"]], bool] = lambda new: False,
    together: int | None = None,
) -> list[Tensor]:
    """The ids of up to `count` tokens that follow each row of ids; rows written together stop when all have `ended`.

    Rows of equal length are written `together` at a time, or as many as fit; one by one where the model needs it.
    `hooks` act in all rows: those with a position in the text that is given, those without at its last token and at
    every new one. Or `edits` are the hooks of each row's own edit, which act at every token.
    """
    if is_masked(model):
        raise ValueError(
            "a masked model does not continue texts; read the answer at the mask: kn.sweep(model, prompt, [[]])"
        )
    longest, limit = max(rows, key=len), adapter.context_length(model)
    length = len(longest) + whole("max_new_tokens", count, least=1)
    if length > limit:
        raise ValueError(f"{len(longest)} tokens and {count} more; the model's context holds {limit}")
    acting = hooks if edits is None else by_row(edits)
    for name, fn in acting:
        adapter.hook_point(model, name)
        if isinstance(fn, PositionedHook):
            check_hook(model, name)
    can = capability(model, longest[None], length)
    # A function of the user's may do anything to its activation: it sees one text, and the whole of it.
    alone = not can.fork or not all(isinstance(fn, PositionedHook | StatefulHook) for _, fn in acting)
    local = all(isinstance(fn, StatefulHook) or is_local(name, fn) for name, fn in acting)
    stepwise = can.fill and local and _steps_are_right(model, probe_text(model, longest, length))
    written: dict[int, Tensor] = {}
    for group in alike(map(len, rows)):
        most = 1 if alone else together or options().max_rows or len(group)
        for part in (group[start : start + most] for start in range(0, len(group), most)):
            own = hooks if edits is None else by_row([edits[n] for n in part])
            tokens = torch.stack([rows[n] for n in part])
            written |= zip(part, _write(model, tokens, count, own, draw.chooser(part), ended, stepwise), strict=True)
    return [written[n] for n in range(len(rows))]


@torch.no_grad()
def _write(
    model: Any,
    tokens: Int[Tensor, "row pos"],
    count: int,
    hooks: Sequence[Hook],
    choose: Choose,
    ended: Callable[[Int[Tensor, "row new"]], bool],
    stepwise: bool,
) -> Int[Tensor, "row new"]:
    run = adapter.Steps(model, tokens.shape[0]) if stepwise else partial(adapter.run, model)
    given, start, text = tokens.shape[1], 0, tokens
    with progress_bar(count, "token") as bar:
        for _ in range(count):
            must_fire = MustFire(model)
            placed = [(name, _placed(fn, given, start, text.shape[1])) for name, fn in hooks]
            points = must_fire.points((name, fn) for name, fn in placed if fn is not None)
            pick = Pick(model, dict(hooks), lambda x: x[:, -1:])
            step = partial(run, text[:, start:])
            logits = pick.of(with_hooks(model, [*points, *pick.points], step))[:, -1].float().cpu()
            must_fire.check()
            if not bool(torch.isfinite(logits.amax(-1)).all()):
                raise FloatingPointError("the logits are nan or inf: activations overflow; load it in float32")
            start = text.shape[1] if stepwise else 0
            text = torch.cat([text, choose(logits)[:, None].to(text.device)], 1)
            bar.update()
            if ended(text[:, given:]):
                break
    return text[:, given:].cpu()


def _placed(fn: PassHook, given: int, start: int, stop: int) -> PassHook | None:
    """A hook where it acts in a run from token `start` to `stop`, of which `given` were given; `None` if nowhere."""
    if not isinstance(fn, PositionedHook):
        return fn
    if fn.pos is ANSWER:
        at: Sequence[int] = range(given - 1, stop)
    elif fn.pos is None and fn.whole is None:
        at = range(stop)
    else:
        at = resolve_positions(fn.pos, given)
    here = [p for p in at if p >= start]
    # The other run of a patch is as long as the text that was given.
    return fn.at(here).moved(start, stop if fn.whole is None else given) if here else None


@torch.no_grad()
def _steps_are_right(model: Any, text: Int[Tensor, "1 pos"]) -> bool:
    """Do steps with kept keys and values give the logits of one run of the whole text? Yes, if those of a longer do."""
    key = ("steps", text.shape[1])
    if True in of_longer(answers(model), *key):
        return True
    return once(model, key, lambda: works(lambda: _compare_steps(model, text)))


def _compare_steps(model: Any, text: Int[Tensor, "1 pos"]) -> bool:
    first = text.shape[1] - min(_TRIED, text.shape[1] // 2)
    steps = adapter.Steps(model, 1)
    steps(text[:, :first])
    stepped = torch.cat([steps(token)[:, -1] for token in text[:, first:].split(1, 1)])
    return close(stepped, adapter.run(model, text)[0, first:])
