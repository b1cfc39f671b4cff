"""Constrained fine-tuning of one MLP's output matrix: the baseline that rank-one edits are compared with (FT-L)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cross_entropy
from tqdm.auto import tqdm

from kntools.editing.weight_edits import Change, LayerEdit
from kntools.engine.from_layer import Upper
from kntools.models import adapter
from kntools.prompts import Prompt, encode
from kntools.results.provenance import provenance
from kntools.sites import hook_name


def fine_tune(
    model: Any,
    prompt: Prompt,
    target: str,
    *,
    layer: int,
    steps: int = 25,
    lr: float = 5e-4,
    limit: float = 5e-4,
    stop_loss: float = 1e-2,
    prepend_bos: bool | None = None,
    progress: bool = False,
) -> LayerEdit:
    """Fine-tune one layer's `W_out` on one sentence, no entry by more than `limit`: FT+L of Meng et al. 2022.

    ```python
    edit = kn.fine_tune(model, prompt, " Rome", layer=8)
    with edit.applied(model): ...
    edit.details["losses"]               # -log P(target) at each step
    ```

    Adam on -log P(target); after each update the change is clamped to +-`limit` entry by entry (an L-infinity norm).
    What is tuned is the change, in float32, on top of the layers below, which are run once; the model is untouched.

    Arguments:
        prompt: its own target plays no part; the subject is not needed.
        target: the new answer; the pieces of a longer one are teacher-forced.
        layer: whose `W_out` is tuned.
        steps: updates at most.
        lr: learning rate of Adam.
        limit: the largest change of an entry.
        stop_loss: stop below this loss.
        prepend_bos: as in `encode`.
        progress: show a bar.

    Returns:
        `LayerEdit`.

    Raises:
        ValueError: a masked model, or an argument out of range.
        IndexError: no such layer.
        FloatingPointError: nan or inf.
    """
    if adapter.is_masked(model):
        raise ValueError("fine_tune works on causal models; for a masked model use kn.edit_values")
    if steps < 1 or lr <= 0 or limit <= 0:
        raise ValueError(f"steps={steps}, lr={lr}, limit={limit}; all must be above 0")
    adapter.check_layer(model, layer)
    encoded = encode(model, Prompt(prompt.text, target, prompt.subject), prepend_bos, multi_token="sum")
    about = provenance(
        model, method="fine_tune", steps=steps, lr=lr, limit=limit, stop_loss=stop_loss, prepend_bos=encoded.prepend_bos
    )
    wanted = torch.tensor(encoded.target_ids, device=encoded.tokens.device)
    asked = torch.tensor([encoded.positions], device=encoded.tokens.device)
    with adapter.frozen_parameters(model), torch.enable_grad():
        # From the first token on: every token's MLP reads the same matrix.
        [group] = Upper(model, [encoded.tokens[0]], [0], layer).groups
        change = torch.zeros_like(adapter.w_out(model, layer), dtype=torch.float32, requires_grad=True)
        hooks = _tuned(model, layer, change)
        optimiser = torch.optim.Adam([change], lr=lr)
        losses: list[float] = []
        for _ in tqdm(range(steps), disable=not progress, unit="step", leave=False):
            logits = group.run(hooks, asked)[0].float()
            loss = cross_entropy(logits, wanted, reduction="sum")
            losses.append(float(loss.detach()))
            [change.grad] = torch.autograd.grad(loss, change)
            if not bool(torch.isfinite(loss) & torch.isfinite(change.grad).all()):
                raise FloatingPointError("the loss is nan or inf; the model is untouched. Load it in float32")
            if losses[-1] < stop_loss:
                break
            optimiser.step()
            with torch.no_grad():
                change.clamp_(-limit, limit)
    label = f"fine-tuned: {prompt.text!r} -> {target!r} in L{layer}"
    return LayerEdit((Change(layer, change.detach().cpu()),), label, about, {"losses": losses})


def _tuned(model: Any, layer: int, change: Float[Tensor, "d_mlp d_model"]) -> list[tuple[str, Callable[..., Any]]]:
    """Hooks that add what the change of `W_out` adds."""
    seen: dict[str, Tensor] = {}

    def note(x: Tensor, hook: Any) -> None:
        seen["keys"] = x.detach()

    def add(x: Tensor, hook: Any) -> Tensor:
        return x + (seen["keys"].float() @ change).to(x.dtype)

    return [(hook_name("mlp.hook_post", layer), note), (hook_name(adapter.output_site(model), layer), add)]
