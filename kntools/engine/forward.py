"""One forward pass with many interventions in it; and with one, which is what a sweep falls back to.

The batch starts as one row per prompt, untouched by any hook. On the way into the block where an intervention
first acts, its rows join the batch as copies of its prompt's clean row. From there on its hooks see these rows,
and no others.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kntools.arguments import shown
from kntools.engine.plan import Item, Pass, stage_of
from kntools.hooks.positioned import PositionedHook, StatefulHook, axis_of_positions, shares_memory
from kntools.models import adapter
from kntools.models.attachment import PointHook
from kntools.models.prefix import Prefix, Rows
from kntools.sites import Hook, resolve_positions

# Hooks on the logits.
_ON_LOGITS = {"unembed.hook_out", "hook_unembed"}

PassHook = Callable[..., Any]


class NotBatched(Exception):
    """A hook point whose tensor has no row for each intervention (rotary tables): the pass cannot be shared."""


@dataclass
class PassOutput:
    """What one pass gives, by the number of the item."""

    logits: dict[int, Tensor]  # [row asked d_vocab]
    watched: dict[int, dict[str, "Watched"]]  # by hook name: activations to differentiate by


class ForwardPass:
    """Runs one `Pass`. `prefix` holds the keys and values of what comes before it, of all prompts."""

    def __init__(
        self,
        model: Any,
        tokens: Tensor,
        asked: Sequence[Sequence[int]],
        plan: Pass,
        prefix: Prefix | None,
        embedded: Tensor | None = None,
        vocab_ids: Sequence[int] | None = None,
    ) -> None:
        self.model, self.tokens, self.prefix = model, tokens, prefix
        self.vocab_ids = vocab_ids  # tokens whose logits are made, if not all
        self.embedded = embedded  # [prompt pos d_model]: what enters block 0, if not the tokens' embedding
        self.length, self.start = tokens.shape[1], plan.start
        self.layers = adapter.n_layers(model)
        self.items = sorted(plan.items, key=lambda i: i.fork)
        self.prompts = plan.prompts
        row_of = {prompt: row for row, prompt in enumerate(self.prompts)}
        self.sources = [*row_of.values()]  # of each row: the clean row that it is a copy of
        self.spans: dict[int, slice] = {}  # item number -> its rows in the pass, in ascending order
        for item in self.items:
            first = len(self.sources)
            self.sources += [row_of[item.intervention.prompt]] * item.intervention.rows
            self.spans[item.number] = slice(first, len(self.sources))
        per_row = [asked[self.prompts[source]] for source in self.sources[len(self.prompts) :]]
        self.asked = torch.tensor(per_row, device=tokens.device) - self.start  # [row asked]: of the items, in the pass
        self.rows = Rows()
        self.watched: dict[int, dict[str, Watched]] = {}
        self.must_fire = MustFire(model)

    def run(self) -> PassOutput:
        if self.prefix is not None:
            self.prefix.use(self.rows)
        residual = self._embed_separately()
        self._note_rows(1)
        names = {name for i in self.items for name in i.intervention.names()}
        pick = Pick(self.model, names, lambda x: gather_positions(x[len(self.prompts) :], self.asked))
        points = [*self._forks(residual), *self._dispatchers(early=False), *pick.points]
        window, vocab_ids = self.tokens[self.prompts[:1], self.start :], self.vocab_ids if pick.points else None
        logits = pick.of(adapter.run(self.model, window, self.prefix, points, vocab_ids))
        self.must_fire.check()
        # Cut in one piece of graph: the gradient of a slice is as large as all logits.
        parts = logits.split([item.intervention.rows for item in self.items])
        return PassOutput(dict(zip(self.spans, parts, strict=True)), self.watched)

    # --- rows -----------------------------------------------------------------------------------------

    def _joining(self, layer: int) -> list[int]:
        """The sources of the rows that join at `layer`."""
        return [source for i in self.items if i.fork == layer for source in self.sources[self.spans[i.number]]]

    def _note_rows(self, count: int) -> None:
        """Keep the prompts of the rows in step with the batch."""
        self.rows.count = count
        if len(self.tokens) > 1:
            prompts = [self.prompts[source] for source in self.sources[:count]]
            self.rows.prompt_of = torch.tensor(prompts, device=self.tokens.device)

    def _embed_separately(self) -> Tensor | None:
        """The residual stream before block 0, where its batch is not simply one prompt.

        The pass itself starts with a batch of one (so that masks and rotary tables have one row, and
        broadcast); several prompts, and interventions on the embedding, are put in here.
        """
        early = self._joining(-1)
        if len(self.prompts) == 1 and not early:
            return None if self.embedded is None else self.embedded[self.prompts, self.start :]
        sources = [*range(len(self.prompts)), *early]
        tokens = self.tokens[[self.prompts[s] for s in sources]]
        self.rows.count = len(sources)
        residual = adapter.run_embedding(self.model, tokens, self._dispatchers(early=True))[:, self.start :]
        if self.embedded is None:
            return residual
        return torch.cat([self.embedded[self.prompts, self.start :], residual[len(self.prompts) :]])

    def _forks(self, residual: Tensor | None) -> list[PointHook]:
        """On the way into each block: the rows that join there."""
        forks: list[PointHook] = []
        for layer in range(self.layers):
            sources, entering = self._joining(layer), residual if layer == 0 else None
            if sources or entering is not None:
                grow = partial(self._grow, layer, sources, entering)
                forks.append((adapter.fork_point(self.model, layer), grow))
        return forks

    def _grow(self, layer: int, sources: list[int], entering: Tensor | None, activation: Tensor, hook: Any) -> Tensor:
        grown = activation if entering is None else entering
        if sources:
            # Copies must not send gradients back into the clean row: rows are independent of each other.
            index = torch.tensor(sources, device=grown.device)
            grown = torch.cat([grown, grown.detach().index_select(0, index)])
        self._note_rows(grown.shape[0])
        adapter.after_fork(self.model, layer, grown.shape[0], grown.shape[1])
        return grown

    # --- hooks ----------------------------------------------------------------------------------------

    def _dispatchers(self, *, early: bool) -> list[PointHook]:
        """One hook function per hook point, which hands each item its rows: before block 0, or from there on."""
        offset = 0 if early else self.start
        points: dict[int, tuple[Any, dict[int, list[PassHook]]]] = {}
        for item in self.items:
            hooks = [
                (name, fn.moved(offset, self.length) if isinstance(fn, PositionedHook) else fn)
                for name, fn in [*item.intervention.hooks, *watches(item, self.length, offset, self.watched)]
                if (stage_of(name, self.layers) < 0) == early
            ]
            for point, fn in self.must_fire.points(hooks, f" (intervention {item.number})"):
                points.setdefault(id(point), (point, {}))[1].setdefault(item.number, []).append(fn)
        return [(point, partial(self._dispatch, of_items)) for point, of_items in points.values()]

    def _dispatch(self, of_items: dict[int, list[PassHook]], activation: Any, hook: Any) -> Tensor | None:
        """An item may have several hooks here; they run in the order given."""
        # Not its rows, or not yet: the hook may fire earlier in the pass than its name says.
        count = max(self.spans[n].stop for n in of_items)
        if not isinstance(activation, Tensor) or not count <= self.rows.count == activation.shape[0]:
            raise NotBatched(hook.name)
        # In the order of their rows.
        parts = [(self.spans[n], [partial(fn, hook=hook) for fn in fns]) for n, fns in of_items.items()]
        version = None if activation.is_inference() else activation._version
        changed = on_rows(activation, parts)
        # What some rows write in place, and others not, counts alike only where the model goes on with both.
        if changed is not None and version is not None and version != activation._version:
            raise NotBatched(hook.name)
        return changed


def run_plain(model: Any, tokens: Tensor, asked: Sequence[Sequence[int]], item: Item) -> PassOutput:
    """The plain loop: one intervention in a run of its own, the whole prompt, every row from the embedding on."""
    inter, must_fire = item.intervention, MustFire(model)
    watched: dict[int, dict[str, Watched]] = {}
    hooks = must_fire.points(
        [*inter.hooks, *watches(item, tokens.shape[1], 0, watched)], f" (intervention {item.number})"
    )
    logits = adapter.run(model, tokens[inter.prompt].expand(inter.rows, -1), hooks=hooks)
    must_fire.check()
    return PassOutput({item.number: logits[:, list(asked[inter.prompt])]}, watched)


class Pick:
    """What is asked for of the last state, taken before the unembedding; or of all logits, if somebody looks at them.

    `points` go behind all other hooks, and what the run gives through `of`. `names` are those of the other hooks.
    """

    def __init__(self, model: Any, names: Iterable[str], pick: Callable[[Tensor], Tensor]) -> None:
        self.pick, self.done = pick, False
        seen = not _ON_LOGITS.isdisjoint(names) or adapter.is_watched(model)
        self.points = [] if seen else [(adapter.hook_point(model, "unembed.hook_in"), self._early)]

    def _early(self, activation: Tensor, hook: Any) -> Tensor:
        self.done = True
        return self.pick(activation)

    def of(self, logits: Tensor) -> Tensor:
        return logits if self.done else self.pick(logits)


def gather_positions(x: Tensor, positions: Tensor) -> Tensor:
    """`x [row pos d]` at `positions [row asked]`."""
    rows = torch.arange(x.shape[0], device=x.device)[:, None]
    return x[rows, positions.to(x.device)]


# --- hook functions of a pass: each must fire, sees its own rows, and may keep an activation -----------------


class MustFire:
    """Hook functions of a run; one that never ran is an error."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._waiting: dict[object, str] = {}

    def points(self, hooks: Iterable[Hook], whose: str = "") -> list[PointHook]:
        """The hooks as they are attached for the run."""
        return [(adapter.hook_point(self.model, name), self._noted(f"{name!r}{whose}", fn)) for name, fn in hooks]

    def _noted(self, label: str, fn: PassHook) -> PassHook:
        key = object()
        self._waiting[key] = label

        def call(activation: Any, hook: Any) -> Any:
            self._waiting.pop(key, None)
            new = fn(activation, hook=hook)
            if new is not None and isinstance(activation, Tensor):
                _check_returned(new, activation, label)
            return new

        return call

    def check(self) -> None:
        if self._waiting:
            raise RuntimeError(
                f"the hook on {next(iter(self._waiting.values()))} never fired: this model does not compute that "
                "activation, or its use_... switch is off (e.g. model.set_use_attn_result(True))"
            )


def _check_returned(new: Any, old: Tensor, label: str) -> None:
    """Raise if what a hook returned is not like its activation: it is put together with the rows of other runs."""
    if not isinstance(new, Tensor):
        raise TypeError(f"the hook on {label} returned {shown(new)}; return a tensor, or None to change nothing")
    if (new.shape, new.dtype, new.device) != (old.shape, old.dtype, old.device):
        got, wanted = (f"{tuple(x.shape)} of {x.dtype} on {x.device}" for x in (new, old))
        raise ValueError(
            f"the hook on {label} returned {got} for {wanted}; return the same kind, e.g. new.to(activation)"
        )


def on_rows(x: Tensor, parts: Iterable[tuple[slice, Sequence[Callable[[Tensor], Tensor | None]]]]) -> Tensor | None:
    """Rows of a batch, in ascending order, through functions of their own, in turn; `None` if nothing was changed."""
    pieces, done = [], 0
    if one_memory := x.shape[0] > 1 and x.stride(0) == 0:  # positions: what is written in place is for one row
        x = x.contiguous()
    for span, fns in parts:
        part = old = x[span]
        for fn in fns:
            new = fn(part)
            part = part if new is None else new
        if part is not old:
            pieces += [x[done : span.start], part]
            done = span.stop
    if not pieces:
        return x if one_memory else None
    return torch.cat([*pieces, x[done:]])


def by_row(each: Sequence[Sequence[Hook]]) -> list[Hook]:
    """Hooks for a pass in which row n of the batch has the hooks `each[n]`, those of an edit, and no others."""
    points: dict[str, dict[int, list[PassHook]]] = {}
    states: list[dict[int, dict[str, Any]]] = [{} for _ in each]
    for row, hooks in enumerate(each):
        for name, fn in hooks:
            if not isinstance(fn, StatefulHook):
                raise TypeError(f"{fn!r} may look at other rows; give the hooks of edits (edit.hooks(model))")
            points.setdefault(name, {}).setdefault(row, []).append(partial(fn.for_row(states[row]), hook=None))

    def point(name: str, rows: dict[int, list[PassHook]]) -> Hook:
        parts = [(slice(row, row + 1), fns) for row, fns in rows.items()]
        return name, StatefulHook(lambda x, _: on_rows(x, parts), {})

    return [point(name, rows) for name, rows in points.items()]


@dataclass
class Watched:
    """An activation to differentiate by, as it was in the pass."""

    tensor: Tensor  # [row pos ...] of one item, the whole activation
    axis: int
    local: tuple[int, ...]  # asked positions within the pass

    def select(self, whole: Tensor) -> Tensor:
        """The asked positions of `whole`, as `[row pos ...]`."""
        moved = whole.movedim(self.axis, 1)
        return moved.index_select(1, torch.tensor(self.local, device=whole.device))


def watches(item: Item, length: int, offset: int, into: dict[int, dict[str, Watched]]) -> list[Hook]:
    """Hooks that make the activations of `wrt` ones to differentiate by; `offset` of `length` tokens are left out."""

    def watch(name: str, local: tuple[int, ...]) -> PassHook:
        def keep(activation: Tensor, hook: Any) -> Tensor:
            # A new tensor in any case: the slice that came in is not what the pass goes on with.
            kept = activation.clone() if activation.requires_grad else activation.detach().clone().requires_grad_()
            own[name] = Watched(kept, axis_of_positions(activation, hook), local)
            return activation.copy_(kept) if shares_memory(name) else kept

        return keep

    own = into.setdefault(item.number, {})
    return [
        (name, watch(name, tuple(p - offset for p in resolve_positions(pos, length))))
        for name, pos in item.intervention.wrt
    ]
