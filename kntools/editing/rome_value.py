"""The value of a rank-one edit: the MLP output at the subject that makes the target probable."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kntools.editing.rank_one import Step
from kntools.editing.requests import EditRows
from kntools.editing.rome_batch import RowBatch
from kntools.editing.rome_settings import RomeSettings
from kntools.models.attachment import with_gradients
from kntools.options import progress_bar
from kntools.prompts import Encoded
from kntools.results.fingerprint import fingerprint

# Finished edits leave the passes when at most this share of the edits in them is still running.
_REGROUPED = 0.75


@dataclass(frozen=True)
class Value:
    delta: Float[Tensor, " d_model"]  # added to the MLP's output at the subject
    keys: Float[Tensor, "prompt d_mlp"]  # the neurons there, behind each template
    steps: tuple[Step, ...]


#: Values that were found in a `shared_values` block, by everything that they depend on.
_found: ContextVar[dict[tuple[Any, ...], Value] | None] = ContextVar("found", default=None)


@contextmanager
def shared_values() -> Iterator[None]:
    """A block in which no value is searched twice: editors with the same search share it.

    Within the block, edits alone may change the model: hooks are not among what values are known by.
    """
    token = _found.set({} if _found.get() is None else _found.get())
    try:
        yield
    finally:
        _found.reset(token)


def find_values(model: Any, edits: Sequence[EditRows], layer: int, settings: RomeSettings) -> list[Value]:
    """The value of each edit; those that are not known from a `shared_values` block are searched together.

    Raises:
        ValueError: an MLP that gives nothing.
        FloatingPointError: nan or inf in the optimisation.
        RuntimeError: within `torch.inference_mode()`.
    """
    known = _found.get()
    known = {} if known is None else known
    # The key stands in the update alone, and the templates are in the rows.
    common = (fingerprint(model), layer, replace(settings, key="consistent", templates=None, seed=0))
    keys = [(*common, *map(_asked, own.encoded), own.weights) for own in edits]
    missing = {key: own for key, own in zip(keys, edits, strict=True) if key not in known}
    if missing:
        values = with_gradients(model, lambda: _search(model, list(missing.values()), layer, settings))
        known |= zip(missing, values, strict=True)
    return [known[key] for key in keys]


def _asked(e: Encoded) -> tuple[Any, ...]:
    return (tuple(e.tokens[0].tolist()), e.positions, e.target_ids, e.subject)


def _search(model: Any, edits: Sequence[EditRows], layer: int, settings: RomeSettings) -> list[Value]:
    """Adam on equation 4 of Meng et al. 2022; all edits in the same passes, each with its own `delta`.

    N steps are N forward passes and N - 1 updates. An edit that stops early is left as it is.
    """
    batch = RowBatch(model, edits, layer, states=settings.scale == "residual")
    v0 = batch.outputs[batch.bare]
    [size] = [x[batch.bare].norm(dim=1) for x in batch.states or [batch.outputs]]
    if not bool(size.all()):
        raise ValueError(f"the MLP of layer {layer} has zero output at a subject (|v0| = 0); edit another layer")
    delta = torch.zeros_like(v0, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=settings.lr)
    curves: list[list[Step]] = [[] for _ in edits]
    found: dict[int, Tensor] = {}
    running = len(edits)
    with progress_bar(settings.steps, "step") as bar:
        for number in range(settings.steps):
            last = number == settings.steps - 1
            left = set(range(len(edits))) - found.keys()
            if len(left) <= _REGROUPED * running:
                batch.keep(left)
                running = len(left)
            optimiser.zero_grad()
            with torch.set_grad_enabled(not last):
                terms = batch.losses(delta, settings.kl_weight)
                decay = settings.weight_decay * delta.norm(dim=1) / size**2
                if not last:
                    decay.sum().backward(inputs=[delta])
            losses = [Step(sum(each), *each) for each in torch.cat([terms, decay.detach()[None]]).T.tolist()]
            for n in left:
                _check_finite(losses[n], None if delta.grad is None else delta.grad[n], edits[n], number)
                curves[n].append(losses[n])
                if last or losses[n].loss < settings.stop_loss:
                    found[n] = delta[n].detach().clone()
            bar.update()
            if len(found) == len(edits):
                break
            optimiser.step()
            new = delta.detach()  # the same memory
            new.mul_((settings.clamp * size / new.norm(dim=1)).clamp(max=1)[:, None])
    own = [slice(start, start + len(edit.prompts)) for start, edit in zip(batch.bare, edits, strict=True)]
    return [Value(found[n], batch.keys[own[n]], tuple(curve)) for n, curve in enumerate(curves)]


def _check_finite(step: Step, gradient: Tensor | None, edit: EditRows, number: int) -> None:
    if isfinite(step.loss) and (gradient is None or bool(torch.isfinite(gradient).all())):
        return
    what = "gradient" if isfinite(step.loss) else "loss"
    raise FloatingPointError(
        f"the {what} of {edit.bare.prompt.text!r} is nan or inf in step {number} of the optimisation; the model is "
        "untouched. Load the model in float32, or use a smaller lr or clamp"
    )
