"""What the neurons of each layer add to the residual stream, and what a changed stream means for the answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from kntools.attribution.integration_path import Paths, hold, norms_may_be_held
from kntools.engine.plan import Intervention
from kntools.hooks.positioned import PositionedHook
from kntools.hooks.states import capture
from kntools.models import adapter, neuron_layers, unembedding
from kntools.options import options
from kntools.sites import ANSWER, Hook, Positions, hook_name

#: The final norm of a changed state, or its scale in the run as it is.
FinalNorm = Literal["live", "frozen"]
_BLOCK = 64  # rows that share one hook


@dataclass(frozen=True)
class LayerWrites:
    """One layer, at some positions of a prompt. A norm behind the MLP (Gemma 2) is held at its scale in the run."""

    layer: int
    activation: Float[Tensor, "pos neuron"]
    weight: Float[Tensor, "neuron d_model"]
    bias: Float[Tensor, " d_model"]
    added: Float[Tensor, "pos d_model"]  # what the MLP adds to the residual stream
    before: Float[Tensor, "pos d_model"]  # the residual stream without that: after attention, also where both read it
    norms: Sequence[unembedding.HeldNorm]  # at each position, times what a block's output is multiplied by

    def through(self, rows: Float[Tensor, "... d_model"], at: int) -> Float[Tensor, "... d_model"]:
        """What directions that `W_out` writes become in the residual stream."""
        return self.norms[at].forward(rows)

    def neurons(self, at: int) -> Float[Tensor, "neuron d_model"]:
        return self.through(self.activation[at][:, None] * self.weight, at)


@torch.no_grad()
def layer_writes(model: Any, paths: Paths, prompt: int, pos: Positions = ANSWER) -> list[LayerWrites]:
    """Every layer with neurons, at `pos` of a prompt."""
    norms = {layer: unembedding.norm_behind(model, layer) for layer in paths.layers}
    # What a layer writes: behind its norm, if it has one.
    sites = {n: neuron_layers.output_site(model, n) if norm is None else "mlp_out" for n, norm in norms.items()}
    watch = [(site, layer) for own, site in sites.items() for site, layer in (("resid_post", own), (site, own))]
    seen = watched(paths, prompt, [*watch, *(("mlp.hook_post", layer) for layer in norms)], pos)
    found = []
    for layer, norm in norms.items():
        weight, bias = adapter.w_out(model, layer).float(), adapter.b_out(model, layer)
        constant = torch.zeros_like(weight[0]) if bias is None else bias.float()
        raw = seen[hook_name("mlp.hook_post", layer)]
        own = raw.float()
        inner = (own @ weight + constant).to(raw)
        inside = unembedding.multiplier(model, sites[layer], layer)
        held = unembedding.held_norms(model, norm, inner, inside)
        added = inside * seen[hook_name(sites[layer], layer)].float()
        before = seen[hook_name("resid_post", layer)].float() - added
        found.append(LayerWrites(layer, own, weight, constant, added, before, held))
    return found


def watched(
    paths: Paths, prompt: int, sites: Sequence[tuple[str, int]], pos: Positions
) -> dict[str, Float[Tensor, "pos ..."]]:
    """Activations of a prompt by hook name."""
    seen: dict[str, Tensor] = {}
    hooks: list[Hook] = [hook for site, layer in sites for hook in capture([site], [layer], seen, pos)]
    paths.runner.rows([Intervention(hooks, prompt=prompt)])
    return {name: x[0] for name, x in seen.items()}


class EndOfStream:
    """The metric of a prompt with other states before the final norm."""

    def __init__(self, model: Any, paths: Paths, prompt: int, final_norm: FinalNorm) -> None:
        self.paths, self.prompt = paths, prompt
        self.site = hook_name("resid_post", adapter.n_layers(model) - 1)
        self.held: list[Hook] = []
        if final_norm == "frozen":
            name = "ln_final.hook_scale"
            seen: dict[str, Tensor] = {}
            keep = PositionedHook(ANSWER, lambda x: seen.update(scale=x.clone()), f"watch {name}")
            paths.runner.rows([Intervention([(name, keep)], prompt=prompt)])
            self.held = [hold(name, seen["scale"])]

    def increase(
        self, state: Float[Tensor, "pos d_model"], moves: Float[Tensor, "move pos d_model"], pos: Positions
    ) -> Float[Tensor, " move"]:
        """m(state + move) - m(state), of each move."""

        def run(part: Float[Tensor, "move pos d_model"]) -> Intervention:
            put = PositionedHook(pos, lambda x: (state + part).to(x), f"put {self.site}", name=self.site)
            return Intervention([(self.site, put), *self.held], prompt=self.prompt, rows=len(part))

        parts = moves.split(min(_BLOCK, options().max_rows or _BLOCK))
        runs = [run(part) for part in (torch.zeros_like(moves[:1]), *parts)]
        with norms_may_be_held():
            values = torch.cat(self.paths.runner.rows(runs, self.paths.metrics)).double().cpu()
        return values[1:] - values[0]

    def increase_at(
        self, at: int, state: Float[Tensor, " d_model"], moves: Float[Tensor, "... d_model"]
    ) -> Float[Tensor, "..."]:
        """The same at one position of the answer, for moves of any shape."""
        return self.increase(state[None], moves.flatten(0, -2)[:, None], at).view(moves.shape[:-1])
