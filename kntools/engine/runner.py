"""Runs interventions on prompts of equal length, in as few and as full forward passes as it can."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kntools.engine import plan
from kntools.engine.capability import capability
from kntools.engine.forward import ForwardPass, MustFire, NotBatched, PassOutput, run_plain
from kntools.engine.inputs import Inputs
from kntools.engine.memory import is_out_of_memory, rows_that_fit
from kntools.engine.plan import Intervention, Item, Pass
from kntools.engine.values import Derivative, Metric, RowGradients, differentiate, metric_values, vocab_ids_of
from kntools.hooks.positioned import PositionedHook
from kntools.models import adapter, neuron_layers
from kntools.models.attachment import with_gradients
from kntools.models.modules import look
from kntools.models.prefix import Prefix
from kntools.options import options, progress_bar


class Runner:
    """Prompts of equal length, the positions whose logits are asked for, and the kept beginnings of the prompts.

    One runner can serve several rounds (an adaptive rule asks again); what it kept stays valid. If more `rounds` are to
    come, the beginnings are kept from the first one on.
    """

    def __init__(
        self, model: Any, inputs: Inputs, embedding: plan.Embedding | None = None, *, rounds: bool = False
    ) -> None:
        look(model)
        self.model, self.inputs, self.embedding, self.rounds = model, inputs, embedding, rounds
        self.tokens, self.layers = inputs.tokens, adapter.n_layers(model)
        self.embedded = None if embedding is None else self._embed(embedding)
        self.can = capability(model, inputs.tokens)
        self._prefix: Prefix | None = None  # of all prompts, up to their last token

    @torch.no_grad()
    def rows(self, interventions: Sequence[Intervention], metrics: Sequence[Metric] | None = None) -> list[Tensor]:
        """The values of each intervention's rows, by the metric of its prompt; without metrics, their logits."""
        for n, inter in enumerate(interventions):
            if inter.wrt:
                raise ValueError(f"intervention {n} has wrt=, but sweep takes no gradients; use kn.sweep_gradients")
        return [values for values, _ in self._run(interventions, metrics)]

    def gradients(self, interventions: Sequence[Intervention], metrics: Sequence[Metric]) -> list[RowGradients]:
        """The same with a backward pass: gradients by what each intervention names in `wrt`."""
        found = with_gradients(self.model, lambda: self._run(interventions, metrics, gradients=True))
        return [RowGradients(values, wrt) for values, wrt in found]

    def _run(
        self, interventions: Sequence[Intervention], metrics: Sequence[Metric] | None, *, gradients: bool = False
    ) -> list[tuple[Tensor, dict[str, Derivative]]]:
        """The values of each intervention's rows, and their derivatives.

        The backward pass belongs to the pass: when memory runs out in it, the pass is split and run again.
        """
        resolved = [plan.resolve(inter, self.inputs) for inter in interventions]
        for name in {name for inter in resolved for name, fn in inter.hooks if isinstance(fn, PositionedHook)}:
            neuron_layers.check_hook(self.model, name)
        items = [self._item(number, inter) for number, inter in enumerate(resolved)]
        # A backward pass goes through no position in vain: an infinite gradient there is nan at the later ones.
        overhead = 0 if gradients else plan.pass_overhead(self.model)
        if not (self._prefix is not None or self.rounds or gradients or self._pays(items, overhead)):
            items = [replace(i, start=0) for i in items]
        window = self.inputs.length - min((i.start for i in items), default=0)
        fit = options().max_rows or rows_that_fit(self.model, window, gradients=gradients)
        shared = self.can.fork and fit > 1  # a shared pass has a clean row too
        vocab_ids = vocab_ids_of(metrics or (), int(self.model.cfg.d_vocab)) if self.can.few_logits else None
        todo = plan.make_passes(items, max_rows=fit, overhead=overhead) if shared else [Pass(0, [i]) for i in items]
        found: dict[int, tuple[Tensor, dict[str, Derivative]]] = {}

        def finish(output: PassOutput) -> None:
            values = {n: rows[:, 0] if self.inputs.single else rows for n, rows in output.logits.items()}
            if metrics is not None:
                values = metric_values(values, {n: metrics[resolved[n].prompt] for n in values}, vocab_ids)
            found.update(differentiate(values, output) if gradients else {n: (rows, {}) for n, rows in values.items()})

        with progress_bar(len(items), "run") as bar:
            while todo:
                current = todo.pop(0)
                try:
                    finish(self._shared(current, fit, vocab_ids) if shared else self._plain(current.items[0]))
                except NotBatched:
                    for item in current.items:
                        finish(self._plain(item))
                except Exception as error:
                    if not is_out_of_memory(error) or len(current.items) == 1:
                        raise
                    # What did not fit once will not fit in the passes to come.
                    rows = sum(i.intervention.rows for i in current.items)
                    fit = max(2, rows // 2 + len(current.prompts))
                    rest = [i for p in (current, *todo) for i in p.items]
                    todo = plan.make_passes(rest, max_rows=fit, overhead=overhead)
                    continue
                bar.update(len(current.items))
        return [found[n] for n in range(len(items))]

    def _item(self, number: int, inter: Intervention) -> Item:
        """Where an intervention first acts: in which block, and at which position."""
        fork = min((plan.stage_of(name, self.layers) for name in inter.names()), default=self.layers - 1)
        start = plan.start_of(inter, self.inputs) if self.can.prefix else 0
        # Rows that exist from the embedding on start from the tokens, not from what their prompt's embedding became.
        return Item(number, self._with_embedding(inter) if fork == -1 else inter, fork, start)

    def _with_embedding(self, inter: Intervention) -> Intervention:
        """For a run of its own: after the hooks that its prompt's embedding has in every run."""
        return replace(inter, hooks=(*self.embedding[inter.prompt], *inter.hooks)) if self.embedding else inter

    def _pays(self, items: Sequence[Item], overhead: int) -> bool:
        """Do these items save more positions by kept beginnings than it takes to make those of all prompts?"""
        own, used = self.inputs.length - 1, {i.intervention.prompt for i in items}
        made = len(self.tokens if self.embedded is not None else {*map(tuple, self.tokens[:, :-1].tolist())})
        return sum(i.start * i.intervention.rows for i in items) + len(used) * own >= made * own + overhead

    def _shared(self, planned: Pass, fit: int, vocab_ids: Sequence[int] | None) -> PassOutput:
        if planned.start and self._prefix is None:
            residual = None if self.embedded is None else self.embedded[:, :-1]
            self._prefix = adapter.build_prefix(self.model, self.tokens[:, :-1], residual, rows=fit)
        prefix = self._prefix.before(planned.start) if self._prefix is not None and planned.start else None
        return ForwardPass(self.model, self.tokens, self.inputs.asked, planned, prefix, self.embedded, vocab_ids).run()

    def _plain(self, item: Item) -> PassOutput:
        if item.fork != -1:
            item = replace(item, intervention=self._with_embedding(item.intervention))
        return run_plain(self.model, self.tokens, self.inputs.asked, item)

    @torch.no_grad()
    def _embed(self, embedding: plan.Embedding) -> Float[Tensor, "prompt pos d_model"]:
        """What enters block 0, once for each prompt with hooks of its own: the corrupted prompts of causal tracing."""
        rows = []
        for number, hooks in enumerate(embedding):
            for name, _ in hooks:
                if plan.stage_of(name, self.layers) != -1:
                    raise ValueError(f"{name!r} is not on the embedding; put such hooks into the interventions")
            must_fire = MustFire(self.model)
            points = must_fire.points(hooks)
            rows.append(adapter.run_embedding(self.model, self.tokens[number : number + 1], points))
            must_fire.check()
        return torch.cat(rows)
