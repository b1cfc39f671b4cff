"""Constrained fine-tuning of one MLP's output matrix: the baseline that rank-one edits are compared with (FT-L)."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, SupportsIndex

import torch
from jaxtyping import Float
from torch import Tensor

from kntools.arguments import decimal, whole
from kntools.editing.changes import Change
from kntools.editing.requests import make_requests
from kntools.editing.rome_batch import answer_loss, padded
from kntools.editing.weight_edits import LayerEdit
from kntools.engine.forward import by_row
from kntools.engine.from_layer import row_groups
from kntools.engine.texts import chunks
from kntools.models import adapter, neuron_layers
from kntools.models.attachment import with_gradients
from kntools.options import progress_bar
from kntools.prompts import Encoded, Prompts
from kntools.results.display import excerpt
from kntools.results.provenance import provenance


def fine_tune(
    model: Any,
    prompts: Prompts,
    targets: str | Sequence[str],
    *,
    layer: SupportsIndex,
    steps: int = 25,
    lr: float = 5e-4,
    limit: float = 5e-4,
    stop_loss: float = 1e-2,
) -> Any:
    """Fine-tune one layer's `W_out` on one sentence, no entry by more than `limit`: FT+L of Meng et al. 2022.

    ```python
    edit = kn.fine_tune(model, prompt, " Rome", layer=8)
    with edit.applied(model): ...
    edit.details["losses"]               # -log P(target) at each step
    ```

    At most `steps` updates of Adam on -log P(target) (of a longer target teacher-forced), until it is below
    `stop_loss`; after each the change is clamped to +-`limit` entry by entry (an L-infinity norm). What is tuned is the
    change, in float32; in half precision the loss is that of the rounded weights. The model is untouched. One prompt
    (no subject is needed) gives a `LayerEdit`, several a list: each is tuned on its own, in shared passes.

    Raises:
        ValueError: a masked model, a layer without neurons, or an argument out of range.
        IndexError: no such layer.
        FloatingPointError: nan or inf.
    """
    requests = make_requests(model, prompts, targets, "fine_tune")
    how: dict[str, Any] = {
        "steps": whole("steps", steps, least=1),
        "lr": decimal("lr", lr, above=0),
        "limit": decimal("limit", limit, above=0),
        "stop_loss": decimal("stop_loss", stop_loss),
    }
    number = adapter.check_layer(model, layer)
    neuron_layers.width(model, number)
    encoded = [request.encode(model) for request in requests]
    about = [provenance(model, method="fine_tune", **how, prepend_bos=e.prepend_bos) for e in encoded]
    # At least one at a time, and as many as take a gigabyte for each of what Adam keeps.
    together = max(1, 2**28 // adapter.w_out(model, number).numel())
    found: list[tuple[Float[Tensor, "neuron d_model"], list[float]]] = []
    for part in chunks(encoded, together):
        found += with_gradients(model, partial(_descend, model, part, number, **how))
    edits = [
        LayerEdit(
            (Change(number, update),),
            f"fine-tuned: {excerpt(request.prompt.text)!r} -> {request.target!r} in L{number}",
            made,
            {"losses": losses},
        )
        for request, made, (update, losses) in zip(requests, about, found, strict=True)
    ]
    return edits[0] if isinstance(targets, str) else edits


def _descend(
    model: Any, encoded: Sequence[Encoded], layer: int, steps: int, lr: float, limit: float, stop_loss: float
) -> list[tuple[Float[Tensor, "neuron d_model"], list[float]]]:
    """The change of each edit, and its losses, in shared passes; one that stops early is left as it is."""
    # From the first token on: every token's MLP reads the same matrix.
    groups = row_groups(model, [e.tokens[0] for e in encoded], [0] * len(encoded), layer)
    asked, wanted = padded([(e.positions, e.target_ids) for e in encoded], encoded[0].tokens.device)
    # On the layer's own device: what hooks move there would not follow the steps.
    w = adapter.w_out(model, layer)
    updates = [torch.zeros(w.shape, dtype=torch.float32, device=w.device, requires_grad=True) for _ in encoded]
    hooks, losses = [Change(layer, update).hooks(model) for update in updates], [list[float]() for _ in encoded]
    optimiser, active = torch.optim.Adam(updates, lr=lr), set(range(len(encoded)))
    with progress_bar(steps, "step") as bar:
        for _ in range(steps):
            for group in (group for group in groups if not active.isdisjoint(group.numbers)):
                logits = group.run(by_row([hooks[n] for n in group.numbers]), asked[group.numbers])
                loss = answer_loss(logits.float(), wanted[group.numbers])
                gradients = torch.autograd.grad(loss.sum(), [updates[n] for n in group.numbers])
                for n, value, gradient in zip(group.numbers, loss.tolist(), gradients, strict=True):
                    if n in active:
                        _check_finite(value, gradient)
                        losses[n].append(value)
                        # An update without a gradient is left alone by the optimiser.
                        updates[n].grad = gradient if value >= stop_loss else None
            bar.update()
            active = {n for n in active if updates[n].grad is not None}
            if not active:
                break
            optimiser.step()
            for n in active:
                updates[n].detach().clamp_(-limit, limit)  # the same memory
    return [(update.detach().cpu(), curve) for update, curve in zip(updates, losses, strict=True)]


def _check_finite(loss: float, gradient: Tensor) -> None:
    if not (math.isfinite(loss) and bool(torch.isfinite(gradient).all())):
        raise FloatingPointError("the loss is nan or inf; the model is untouched. Load it in float32")
