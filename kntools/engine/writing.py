"""Tokens that follow texts, one by one: with kept keys and values where the model allows it, else in whole runs."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kntools.arguments import whole
from kntools.engine.capability import PROBE_ERRORS, capability, close, of_longer, probe_text
from kntools.engine.forward import MustFire, PassHook, by_row, run_and_pick
from kntools.engine.memory import is_out_of_memory
from kntools.hooks.positioned import PositionedHook, StatefulHook, is_local
from kntools.models import adapter
from kntools.models.attachment import PointHook, with_hooks
from kntools.models.causality import is_masked
from kntools.models.modules import answers
from kntools.models.neuron_layers import check_hook
from kntools.options import options, progress_bar
from kntools.sites import ANSWER, Hook, resolve_positions

#: From the logits of the next token to the token, for each row.
Choose = Callable[[Float[Tensor, "row d_vocab"]], Int[Tensor, " row"]]

# So many steps are compared with a whole run.
_TRIED = 8


class Writer:
    """Continues rows of tokens by up to `count` tokens, under hooks: the same in all rows, or each row's own edit.

    Hooks with a position act in the text that is given, those without at its last token and at every new one; those of
    edits at every token.
    """

    def __init__(
        self,
        model: Any,
        rows: Sequence[Tensor],
        count: int,
        hooks: Sequence[Hook] = (),
        *,
        edits: Sequence[Sequence[Hook]] | None = None,
    ) -> None:
        if is_masked(model):
            raise ValueError(
                "a masked model does not continue texts; read the answer at the mask: kn.sweep(model, prompt, [[]])"
            )
        longest, limit = max(rows, key=len), adapter.context_length(model)
        length = len(longest) + whole("max_new_tokens", count, least=1)
        if length > limit:
            raise ValueError(f"{len(longest)} tokens and {count} more; the model's context holds {limit}")
        self.model, self.rows, self.count, self.edits = model, rows, count, edits
        self.hooks = hooks = hooks if edits is None else by_row(edits)
        for name, fn in hooks:
            adapter.hook_point(model, name)
            if isinstance(fn, PositionedHook):
                check_hook(model, name)
        can = capability(model, longest[None], length)
        # A function of the user's may do anything to its activation: it sees one text, and the whole of it.
        self.alone = not can.fork or not all(isinstance(fn, PositionedHook | StatefulHook) for _, fn in hooks)
        local = all(isinstance(fn, StatefulHook) or is_local(name, fn) for name, fn in hooks)
        self.steps = can.fill and local and _steps_are_right(model, probe_text(model, longest, length))

    def groups(self) -> list[list[int]]:
        """Which rows are written together: those of equal length, `max_rows` at a time."""
        lengths = [len(row) for row in self.rows]
        alike = [[n for n, other in enumerate(lengths) if other == length] for length in dict.fromkeys(lengths)]
        most = 1 if self.alone else options().max_rows or len(lengths)
        return [group[start : start + most] for group in alike for start in range(0, len(group), most)]

    @torch.no_grad()
    def write(
        self,
        numbers: Sequence[int],
        choose: Choose,
        ended: Callable[[Int[Tensor, "row new"]], bool] = lambda new: False,
    ) -> Int[Tensor, "row new"]:
        """The tokens that follow some rows of equal length, until all of these have `ended`."""
        tokens = torch.stack([self.rows[n] for n in numbers])
        hooks = self.hooks if self.edits is None else by_row([self.edits[n] for n in numbers])
        steps = adapter.Steps(self.model, tokens.shape[0]) if self.steps else None
        run = partial(adapter.run, self.model) if steps is None else steps
        given, start, text = tokens.shape[1], 0, tokens

        def attached(points: list[PointHook], new: Tensor, pick: list[PointHook]) -> Tensor:
            return with_hooks([*points, *pick], lambda: run(new))

        with progress_bar(self.count, "token") as bar:
            for _ in range(self.count):
                must_fire = MustFire(self.model)
                placed = [(name, _placed(fn, given, start, text.shape[1])) for name, fn in hooks]
                points = must_fire.points((name, fn) for name, fn in placed if fn is not None)
                step = partial(attached, points, text[:, start:])
                found = run_and_pick(self.model, dict(hooks), lambda x: x[:, -1:], step)
                must_fire.check()
                logits = found[:, -1].float().cpu()
                if not bool(torch.isfinite(logits.amax(-1)).all()):
                    raise FloatingPointError("the logits are nan or inf: activations overflow; load it in float32")
                start = 0 if steps is None else text.shape[1]
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
    known, key = answers(model), ("steps", text.shape[1])
    if True in of_longer(known, *key):
        return True
    if key not in known:
        first = text.shape[1] - min(_TRIED, text.shape[1] // 2)
        steps = adapter.Steps(model, 1)
        try:
            steps(text[:, :first])
            stepped = torch.cat([steps(token)[:, -1] for token in text[:, first:].split(1, 1)])
        except PROBE_ERRORS as error:
            if is_out_of_memory(error):
                raise
            known[key] = False
        else:
            known[key] = close(stepped, adapter.run(model, text)[0, first:])
    return bool(known[key])
