"""What the heads of a layer write at one position: the values of each token, entry by entry, and what reads them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kntools.attribution.integration_path import Paths
from kntools.attribution.layer_writes import watched
from kntools.models import adapter, unembedding
from kntools.sites import hook_name

_SITES = ("resid_pre", "v", "pattern", "z")


@dataclass(frozen=True)
class AttentionValues:
    """One layer. Heads that share values (grouped queries) have a copy each."""

    layer: int
    stream: Float[Tensor, "source d_model"]  # that enters the layer
    parts: Float[Tensor, "source head d_head"]  # pattern times value
    w_v: Float[Tensor, "head d_model d_head"]
    w_o: Float[Tensor, "head d_head d_model"]
    before: list[unembedding.HeldNorm]  # the norm that values read through, at each source
    behind: unembedding.HeldNorm  # the norm of what attention writes (Gemma 2), times what a block's output is

    @staticmethod
    def of_prompt(model: Any, paths: Paths, prompt: int, at: int) -> "Iterator[AttentionValues]":
        layers = [layer for layer in range(adapter.n_layers(model)) if hook_name("v", layer) in model.hook_dict]
        seen = watched(paths, prompt, [(site, layer) for layer in layers for site in _SITES], None)
        for layer in layers:
            block = model.blocks[layer]
            stream, v, pattern, z = (seen[hook_name(site, layer)] for site in _SITES)
            try:
                norm, of_values, of_output = block.ln1, block.attn.W_V, block.attn.W_O
            except (AttributeError, NotImplementedError):  # no norm in front, or latent attention
                raise ValueError(_refusal(model, layer)) from None
            w_v, w_o = of_values.detach().float(), of_output.detach().float()
            held = unembedding.held_norms(model, norm, stream)
            heads = pattern.shape[0]
            values = v.float().repeat_interleave(heads // v.shape[1], 1)
            w_v = w_v.repeat_interleave(heads // len(w_v), 0)
            parts = pattern[:, at].float().T[..., None] * values
            read = torch.stack([norm.forward(x.float()) for norm, x in zip(held, stream, strict=True)])
            read = torch.einsum("sm,hmd->shd", read, w_v)
            # Biases are the same at every token: differences do not have them.
            if not (_same(parts.sum(0), z[at].float()) and _same(read[1:] - read[0], values[1:] - values[0])):
                raise ValueError(_refusal(model, layer))
            bias = getattr(block.attn, "b_O", None)
            whole = torch.einsum("hd,hdm->m", z[at].float(), w_o) + (0 if bias is None else bias.float())
            inside = unembedding.multiplier(model, "attn_out", layer)
            after = getattr(block, "ln1_post", None)
            [behind] = unembedding.held_norms(model, after, whole.to(stream)[None], inside)
            yield AttentionValues(layer, stream.float(), parts, w_v, w_o, held, behind)

    def heads(self) -> Float[Tensor, "source head d_model"]:
        """What each head writes of each token."""
        return self.behind.forward(torch.einsum("shd,hdm->shm", self.parts, self.w_o))

    def entries(self, source: int, head: int) -> Float[Tensor, "d_head d_model"]:
        """... and each entry of it."""
        return self.behind.forward(self.parts[source, head][:, None] * self.w_o[head])

    def key(self, source: int, head: int, entry: int) -> Float[Tensor, " d_model"]:
        """What an entry reads of the stream at a token."""
        return self.before[source].back(self.w_v[head, :, entry])


def _same(found: Tensor, expected: Tensor) -> bool:
    return float((found - expected).norm()) <= 0.02 * float(expected.norm()) + 1e-6


def _refusal(model: Any, layer: int) -> str:
    return (
        f"the attention of layer {layer} of {adapter.model_name(model)} is no weighted sum of W_V times the normalised "
        "stream: query neurons are not defined there; use kn.log_probability_increase"
    )
