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

from kntools.engine.pass_hooks import MustFire, PassHook, Watched, on_rows, watch
from kntools.engine.plan import Item, Pass, stage_of
from kntools.hooks.positioned import PositionedHook
from kntools.models import adapter
from kntools.models.prefix import Prefix, Rows
from kntools.sites import resolve_positions

# Hooks on the logits.
_ON_LOGITS = {"unembed.hook_out", "hook_unembed"}


class NotBatched(Exception):
    """A hook point whose tensor has no row for each intervention (rotary tables): the pass cannot be shared."""


@dataclass
class PassOutput:
    """Logits `[row asked d_vocab]` of one pass: those of each item's rows."""

    logits: Tensor
    spans: dict[int, slice]  # item number -> its rows in the pass, in ascending order
    watched: dict[int, dict[str, Watched]]  # item number -> hook name -> activation

    def of_items(self) -> dict[int, Tensor]:
        """Logits of each item's rows, cut in one piece of graph: the gradient of a slice is as large as all logits."""
        sizes = [span.stop - span.start for span in self.spans.values()]
        return dict(zip(self.spans, self.logits.split(sizes), strict=True))


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
        self.spans: dict[int, slice] = {}
        for item in self.items:
            first = len(self.sources)
            self.sources += [row_of[item.intervention.prompt]] * item.intervention.rows
            self.spans[item.number] = slice(first, len(self.sources))
        per_row = [asked[self.prompts[source]] for source in self.sources[len(self.prompts) :]]
        self.asked = torch.tensor(per_row, device=tokens.device) - self.start  # [row asked]: of the items, in the pass
        self.rows = Rows()
        self.watched: dict[int, dict[str, Watched]] = {}
        self.must_fire = MustFire()

    def run(self) -> PassOutput:
        if self.prefix is not None:
            self.prefix.use(self.rows)
        residual = self._embed_separately()
        self._note_rows(1)
        window = self.tokens[self.prompts[:1], self.start :]
        names = {name for i in self.items for name in i.intervention.names()}
        pick = Pick(self.model, names, lambda x: gather_positions(x[len(self.prompts) :], self.asked))
        points = [*self._hook_points(residual), *pick.points]
        logits = adapter.run(self.model, window, self.prefix, points, self.vocab_ids if pick.points else None)
        self.must_fire.check()
        return PassOutput(pick.of(logits), self.spans, self.watched)

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
        early = [i for i in self.items if i.fork == -1]
        if len(self.prompts) == 1 and not early:
            return None if self.embedded is None else self.embedded[self.prompts, self.start :]
        sources = list(range(len(self.prompts))) + self._joining(-1)
        tokens = self.tokens[[self.prompts[s] for s in sources]]
        self.rows.count = len(sources)
        embedding = self._dispatchers(early, lambda stage: stage < 0, offset=0)
        residual = adapter.run_embedding(self.model, tokens, embedding)[:, self.start :]
        if self.embedded is None:
            return residual
        return torch.cat([self.embedded[self.prompts, self.start :], residual[len(self.prompts) :]])

    # --- hooks ----------------------------------------------------------------------------------------

    def _hook_points(self, residual: Tensor | None) -> list[tuple[Any, Callable[..., Any]]]:
        forks: list[tuple[Any, Callable[..., Any]]] = []
        for layer in range(self.layers):
            if self._joining(layer) or (layer == 0 and residual is not None):
                forks.append((adapter.fork_point(self.model, layer), self._fork(layer, residual)))
        return [*forks, *self._dispatchers(self.items, lambda stage: stage >= 0, offset=self.start)]

    def _fork(self, layer: int, residual: Tensor | None) -> Callable[..., Tensor]:
        sources = self._joining(layer)

        def grow(activation: Tensor, hook: Any) -> Tensor:
            if layer == 0 and residual is not None:
                activation = residual
            if sources:
                # Copies must not send gradients back into the clean row: rows are independent of each other.
                index = torch.tensor(sources, device=activation.device)
                activation = torch.cat([activation, activation.detach().index_select(0, index)])
            self._note_rows(activation.shape[0])
            adapter.after_fork(self.model, layer, activation.shape[0], activation.shape[1])
            return activation

        return grow

    def _dispatchers(
        self, items: Sequence[Item], here: Callable[[int], bool], *, offset: int
    ) -> list[tuple[Any, PassHook]]:
        """One hook function per hook point, which hands each item its rows."""
        points: dict[int, tuple[Any, dict[int, list[PassHook]]]] = {}
        for item in items:
            hooks: list[tuple[str, PassHook]] = [
                (name, fn.moved(offset, self.length) if isinstance(fn, PositionedHook) else fn)
                for name, fn in item.intervention.hooks
            ]
            for name, pos in item.intervention.wrt:
                local = tuple(p - offset for p in resolve_positions(pos, self.length))
                hooks.append((name, watch(name, local, self.watched.setdefault(item.number, {}))))
            for name, fn in hooks:
                if here(stage_of(name, self.layers)):
                    point = adapter.hook_point(self.model, name)
                    fn = self.must_fire.wrap(f"{name!r} (intervention {item.number})", fn)
                    points.setdefault(id(point), (point, {}))[1].setdefault(item.number, []).append(fn)
        return [(point, self._dispatcher(of_items)) for point, of_items in points.values()]

    def _dispatcher(self, of_items: dict[int, list[PassHook]]) -> PassHook:
        """An item may have several hooks here; they run in the order given."""

        def dispatch(activation: Any, hook: Any) -> Tensor | None:
            # Not its rows, or not yet: the hook may fire earlier in the pass than its name says.
            count = max(self.spans[n].stop for n in of_items)
            if not isinstance(activation, Tensor) or not count <= self.rows.count == activation.shape[0]:
                raise NotBatched(hook.name)
            # In the order of their rows.
            parts = [(self.spans[n], [partial(fn, hook=hook) for fn in fns]) for n, fns in of_items.items()]
            version = None if activation.is_inference() else activation._version
            changed = on_rows(activation, parts, hook.name)
            # What some rows write in place, and others not, counts alike only where the model goes on with both.
            if changed is not None and version is not None and version != activation._version:
                raise NotBatched(hook.name)
            return changed

        return dispatch


def run_plain(model: Any, tokens: Tensor, asked: Sequence[Sequence[int]], item: Item) -> PassOutput:
    """The plain loop: one intervention in a run of its own, the whole prompt, every row from the embedding on."""
    inter, must_fire = item.intervention, MustFire()
    watched: dict[str, Watched] = {}
    watches = [(name, watch(name, resolve_positions(pos, tokens.shape[1]), watched)) for name, pos in inter.wrt]
    hooks = [
        (adapter.hook_point(model, name), must_fire.wrap(f"{name!r} (intervention {item.number})", fn))
        for name, fn in [*inter.hooks, *watches]
    ]
    logits = adapter.run(model, tokens[inter.prompt].expand(inter.rows, -1), hooks=hooks)
    must_fire.check()
    picked = logits[:, list(asked[inter.prompt])]
    return PassOutput(picked, {item.number: slice(0, inter.rows)}, {item.number: watched})


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
