"""One forward pass, many interventions: the engine under attribution, patching, tracing and neuron scans.

The way down: `make_inputs` (inputs.py), `Runner` (runner.py), `make_passes` (plan.py), `ForwardPass` (forward.py).

Four things make it fast. Interventions share what comes before the first block where they act; they share the tokens
before the first position where they act; many of them fill one batch; and only logits that are asked for are made.
Three things make it safe: every row is what `run_with_hooks` would have given, a model that does not allow this runs
the plain loop instead, and a hook that never fired is an error.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from kntools.engine.inputs import Inputs, PromptsOrTokens, make_inputs
from kntools.engine.plan import Embedding, Intervention, as_interventions
from kntools.engine.runner import Runner
from kntools.engine.values import Derivative as Derivative
from kntools.engine.values import Metric, RowGradients, per_prompt
from kntools.sites import Hook, Positions

T = TypeVar("T")


def sweep(
    model: Any,
    prompts: PromptsOrTokens,
    interventions: Sequence[Sequence[Hook] | Intervention],
    *,
    pos: Positions | Sequence[Positions] = None,
    metric: Metric | Sequence[Metric] | None = None,
    embedding: Embedding | None = None,
    attention_mask: Tensor | None = None,
) -> Tensor:
    """Run many interventions on a prompt, in few forward passes.

    ```python
    hooks = [kn.ablate_neurons([(layer, n)]) for layer in range(30) for n in range(50)]
    logits = kn.sweep(model, prompt, hooks)                                  # [1500 d_vocab]
    p = kn.sweep(model, prompt, hooks, metric=kn.probability(answer_id))     # [1500]
    ```

    Row *i* is `model.run_with_hooks(tokens, fwd_hooks=interventions[i])[0, pos]`, for any hooks. Hooks of your own
    may do anything to their activation `[1 pos ...]`; hooks of `kntools.hooks` also say where they
    act; earlier tokens are not run again. All rows run together: hooks that hand something on to other hooks need a
    place of their own for it in each intervention.

    Arguments:
        prompts: a `Prompt`, an `Encoded` or token ids; or several, of any lengths (then give
            `Intervention(hooks, prompt=...)`).
        interventions: lists of hooks, or `Intervention`s.
        pos: whose logits to return: `None` is the answer's position; an index; several (they become an axis);
            `slice(None)` for all; or one entry of several positions per prompt (`[[3], [5]]`).
        metric: reduce the logits of each row to a value, at once (46,080 rows of logits do not fit in memory); one
            metric, or one per prompt.
        embedding: for each prompt, hooks on its embedding (`kn.corrupt`) that come before those of every
            intervention. The prompt so changed is then run once, and is what interventions share.
        attention_mask: for token ids that are filled up to equal length, left or right: 1 for each token of the text.
            Each row is run as its text alone; positions count its tokens, and the answer is at its last one.

    Returns:
        Logits `[intervention d_vocab]` in the model's dtype, or values `[intervention]`. An intervention with
        `rows=n` contributes n rows.

    Raises:
        KeyError: a hook name that does not exist on the model.
        IndexError: a position, neuron, head or prompt that does not exist.
        ValueError: the answer position is needed and unknown (token ids of a masked model, or of several rows);
            token ids that look filled up, without `attention_mask`.
        RuntimeError: a hook that never fired.
    """
    groups = make_inputs(model, prompts, pos, attention_mask)
    rows = _in_groups(model, groups, interventions, metric, Runner.rows, embedding)
    if len({r.shape[1:] for r in rows}) > 1:
        raise ValueError("prompts of different lengths give different numbers of logits here; sweep each on its own")
    return torch.cat(rows)


def _in_groups(
    model: Any,
    groups: Sequence[tuple[list[int], Inputs]],
    interventions: Sequence[Sequence[Hook] | Intervention],
    metric: Metric | Sequence[Metric] | None,
    run: Callable[..., list[T]],
    embedding: Embedding | None = None,
) -> list[T]:
    """Run the interventions on the prompts of each length; what each gives, in order."""
    prompts = sum(len(numbers) for numbers, _ in groups)
    metrics = None if metric is None else per_prompt(metric, prompts, "kn.probability(encoded.target_ids)")
    given = as_interventions(interventions, prompts)
    if embedding is not None and len(embedding) != prompts:
        raise ValueError(f"embedding hooks for {len(embedding)} prompts, but there are {prompts}")
    found: dict[int, T] = {}
    for numbers, inputs in groups:
        place = {number: row for row, number in enumerate(numbers)}
        own = [n for n, inter in enumerate(given) if inter.prompt in place]
        if own:
            runner = Runner(model, inputs, None if embedding is None else [embedding[n] for n in numbers])
            runs = [replace(given[n], prompt=place[given[n].prompt]) for n in own]
            own_metrics = None if metrics is None else [metrics[n] for n in numbers]
            found |= zip(own, run(runner, runs, own_metrics), strict=True)
    return [found[n] for n in range(len(given))]


def sweep_gradients(
    model: Any,
    prompts: PromptsOrTokens,
    interventions: Sequence[Intervention],
    metric: Metric | Sequence[Metric],
    *,
    pos: Positions | Sequence[Positions] = None,
    attention_mask: Tensor | None = None,
) -> list[RowGradients]:
    """The same with a backward pass: how a metric of each row depends on activations within that row.

    ```python
    name = "blocks.3.mlp.hook_post"
    halves = Intervention(kn.scale_site("mlp.hook_post", 3, 0.5), wrt=[(name, -1)])
    [g] = kn.sweep_gradients(model, prompt, [halves], kn.probability(answer_id))
    g.values, g.wrt[name].gradient        # [1], [1 1 d_mlp]
    ```

    `wrt` names hook points and positions; each is differentiated by as it is after this intervention's own hooks there.
    One `RowGradients` per intervention, in order; the model's parameters get no gradients.

    Raises:
        FloatingPointError: values or gradients that are not finite.
        RuntimeError: called within `torch.inference_mode()`.
    """
    groups = make_inputs(model, prompts, pos, attention_mask)
    return _in_groups(model, groups, interventions, metric, Runner.gradients)
