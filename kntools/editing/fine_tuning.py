"""Constrained fine-tuning of one MLP's output matrix: the baseline that rank-one edits are compared with (FT-L)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from operator import index
from typing import Any, SupportsIndex, overload

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy

from kntools.editing.changes import Change
from kntools.editing.requests import EditRequest, make_requests
from kntools.editing.weight_edits import LayerEdit
from kntools.engine.from_layer import Upper
from kntools.models import adapter
from kntools.options import progress_bar
from kntools.prompts import PromptLike, Prompts
from kntools.results.provenance import provenance
from kntools.sites import hook_name


@overload
def fine_tune(
    model: Any,
    prompts: PromptLike,
    targets: str,
    *,
    layer: SupportsIndex,
    steps: int = ...,
    lr: float = ...,
    limit: float = ...,
    stop_loss: float = ...,
) -> LayerEdit: ...
@overload
def fine_tune(
    model: Any,
    prompts: Sequence[PromptLike],
    targets: Sequence[str],
    *,
    layer: SupportsIndex,
    steps: int = ...,
    lr: float = ...,
    limit: float = ...,
    stop_loss: float = ...,
) -> list[LayerEdit]: ...
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
) -> LayerEdit | list[LayerEdit]:
    """Fine-tune one layer's `W_out` on one sentence, no entry by more than `limit`: FT+L of Meng et al. 2022.

    ```python
    edit = kn.fine_tune(model, prompt, " Rome", layer=8)
    with edit.applied(model): ...
    edit.details["losses"]               # -log P(target) at each step
    ```

    Adam on -log P(target); after each update the change is clamped to +-`limit` entry by entry (an L-infinity norm).
    What is tuned is the change, in float32, on top of the layers below, which are run once; the model is untouched.

    Arguments:
        prompts: one or several, each edited on its own; no subjects are needed.
        targets: the new answers; the pieces of a longer one are teacher-forced.
        layer: whose `W_out` is tuned.
        steps: updates at most.
        lr: learning rate of Adam.
        limit: the largest change of an entry.
        stop_loss: stop below this loss.

    Returns:
        `LayerEdit` for one prompt, a list for several.

    Raises:
        ValueError: a masked model, or an argument out of range.
        IndexError: no such layer.
        FloatingPointError: nan or inf.
    """
    requests = make_requests(model, prompts, targets, "fine_tune")
    if steps < 1 or lr <= 0 or limit <= 0:
        raise ValueError(f"steps={steps}, lr={lr}, limit={limit}; all must be above 0")
    adapter.check_layer(model, index(layer))
    tuned = [
        _tune(model, request, index(layer), index(steps), float(lr), float(limit), float(stop_loss))
        for request in requests
    ]
    return tuned[0] if isinstance(targets, str) else tuned


def _tune(
    model: Any, request: EditRequest, layer: int, steps: int, lr: float, limit: float, stop_loss: float
) -> LayerEdit:
    encoded = request.encode(model)
    settings = {"steps": steps, "lr": lr, "limit": limit, "stop_loss": stop_loss, "prepend_bos": encoded.prepend_bos}
    about = provenance(model, method="fine_tune", **settings)
    wanted = torch.tensor(encoded.target_ids, device=encoded.tokens.device)
    asked = torch.tensor([encoded.positions], device=encoded.tokens.device)
    losses: list[float] = []
    with adapter.frozen_parameters(model), torch.enable_grad(), progress_bar(steps, "step") as bar:
        # From the first token on: every token's MLP reads the same matrix.
        [group] = Upper(model, [encoded.tokens[0]], [0], layer).groups
        change = torch.zeros_like(adapter.w_out(model, layer), dtype=torch.float32, requires_grad=True)
        hooks = _tuned(model, layer, change)
        optimiser = torch.optim.Adam([change], lr=lr)
        for _ in range(steps):
            loss = cross_entropy(group.run(hooks, asked)[0].float(), wanted, reduction="sum")
            losses.append(float(loss.detach()))
            [change.grad] = torch.autograd.grad(loss, change)
            if not bool(torch.isfinite(loss) & torch.isfinite(change.grad).all()):
                raise FloatingPointError("the loss is nan or inf; the model is untouched. Load it in float32")
            bar.update()
            if losses[-1] < stop_loss:
                break
            optimiser.step()
            with torch.no_grad():
                change.clamp_(-limit, limit)
    return LayerEdit(
        (Change(layer, change.detach().cpu()),),
        f"fine-tuned: {request.prompt.text!r} -> {request.target!r} in L{layer}",
        about,
        {"losses": losses},
    )


def _tuned(model: Any, layer: int, change: Float[Tensor, "d_mlp d_model"]) -> list[tuple[str, Callable[..., Any]]]:
    """Hooks that add what the change of `W_out` adds."""
    seen: dict[str, Tensor] = {}

    def note(x: Tensor, hook: Any) -> None:
        seen["keys"] = x.detach()

    def add(x: Tensor, hook: Any) -> Tensor:
        return x + (seen["keys"].float() @ change).to(x.dtype)

    return [(hook_name("mlp.hook_post", layer), note), (hook_name(adapter.output_site(model), layer), add)]
