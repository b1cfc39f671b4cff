"""Constrained fine-tuning of one MLP's output matrix: the baseline that rank-one edits are compared with (FT-L)."""

from collections.abc import Sequence
from functools import partial
from typing import Any, SupportsIndex

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kntools.arguments import decimal, whole
from kntools.editing.changes import Change
from kntools.editing.requests import EditRequest, make_requests
from kntools.editing.weight_edits import LayerEdit
from kntools.engine.from_layer import row_groups
from kntools.models import adapter, neuron_layers
from kntools.models.gradients import with_gradients
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
    change, in float32; the model is untouched. One prompt (no subject is needed) gives a `LayerEdit`, several a list.

    Raises:
        ValueError: a masked model, a layer without neurons, or an argument out of range.
        IndexError: no such layer.
        FloatingPointError: nan or inf.
    """
    requests = make_requests(model, prompts, targets, "fine_tune")
    steps, stop_loss = whole("steps", steps, least=1), decimal("stop_loss", stop_loss)
    lr, limit = decimal("lr", lr, above=0), decimal("limit", limit, above=0)
    number = adapter.check_layer(model, layer)
    neuron_layers.width(model, number)
    settings = {"steps": steps, "lr": lr, "limit": limit, "stop_loss": stop_loss}

    def descend(encoded: Encoded, losses: list[float]) -> Tensor:
        wanted = torch.tensor(encoded.target_ids, device=encoded.tokens.device)
        asked = torch.tensor([encoded.positions], device=encoded.tokens.device)
        # From the first token on: every token's MLP reads the same matrix.
        [group] = row_groups(model, [encoded.tokens[0]], [0], number)
        update = torch.zeros_like(adapter.w_out(model, number), dtype=torch.float32, requires_grad=True)
        hooks = Change(number, update).hooks(model)
        optimiser = torch.optim.Adam([update], lr=lr)
        with progress_bar(steps, "step") as bar:
            for _ in range(steps):
                loss = cross_entropy(group.run(hooks, asked)[0].float(), wanted, reduction="sum")
                losses.append(float(loss.detach()))
                [update.grad] = torch.autograd.grad(loss, update)
                if not bool(torch.isfinite(loss) & torch.isfinite(update.grad).all()):
                    raise FloatingPointError("the loss is nan or inf; the model is untouched. Load it in float32")
                bar.update()
                if losses[-1] < stop_loss:
                    break
                optimiser.step()
                update.detach().clamp_(-limit, limit)  # the same memory
        return update.detach().cpu()

    def tune(request: EditRequest) -> LayerEdit:
        encoded, losses = request.encode(model), list[float]()
        about = provenance(model, method="fine_tune", **settings, prepend_bos=encoded.prepend_bos)
        update = with_gradients(model, partial(descend, encoded, losses))
        label = f"fine-tuned: {excerpt(request.prompt.text)!r} -> {request.target!r} in L{number}"
        return LayerEdit((Change(number, update),), label, about, {"losses": losses})

    tuned = [tune(request) for request in requests]
    return tuned[0] if isinstance(targets, str) else tuned
