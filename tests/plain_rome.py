"""Rank-one edits of tiny models, and the value optimisation as a plain loop."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import kntools as kn
from kntools.editing.requests import ESSENCE
from kntools.editing.rome_settings import RomeSettings
from kntools.sites import hook_name
from tests import zoo

PROMPT = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada")
TARGET = " Rome"
FEW = ("{}", "Yes, it is. {}", "{}", "The dog and the cat are near the table. {}")


def rome(
    model: Any,
    prompt: Any = PROMPT,
    target: Any = TARGET,
    *,
    layer: int = 1,
    second_moment: Any = None,
    **settings: Any,
) -> Any:
    return kn.rome(model, prompt, target, layer=layer, second_moment=second_moment, settings=RomeSettings(**settings))


def text_keys(model: Any, layer: int, seed: int = 0) -> kn.SecondMoment:
    generator = torch.Generator().manual_seed(seed)
    texts = [
        " ".join(zoo.SENTENCES[int(i)] for i in torch.randint(len(zoo.SENTENCES), (2,), generator=generator))
        for _ in range(30)
    ]
    return kn.second_moment(model, layer, texts)


class Plain:
    """SCIENCE as it is written: every template a forward and a backward pass of its own, over the whole text."""

    def __init__(self, model: Any, prompt: kn.Prompt, target: str, layer: int, templates: Sequence[str], bos: Any):
        self.model, self.layer = model, layer
        # The residual stream is added inside the MLP of BLOOM and MPT.
        inside = type(model.original_model).__name__ in ("BloomForCausalLM", "MptForCausalLM")
        self.site = "mlp.out.hook_out" if inside else "mlp.hook_out"

        def encoded(text: str, multi: Any) -> kn.Encoded:
            return kn.encode(model, kn.Prompt(text, target, prompt.subject, multi_token=multi), prepend_bos=bos)

        self.rows = [encoded(t.replace("{}", prompt.text), "sum") for t in templates]
        self.bare = encoded(prompt.text, "sum")
        self.essence = encoded(ESSENCE.replace("{}", str(prompt.subject)), "first")

    def logits(self, e: kn.Encoded, delta: Tensor) -> Tensor:
        def add(x: Tensor, hook: Any) -> Tensor:
            x = x.clone()
            x[0, e.subject[-1]] = x[0, e.subject[-1]] + delta.to(x.dtype)
            return x

        return self.model.run_with_hooks(e.tokens, fwd_hooks=[(hook_name(self.site, self.layer), add)])[0].float()

    def log_p(self, e: kn.Encoded, delta: Tensor) -> Tensor:
        log_p = self.logits(e, delta)[list(e.positions)].log_softmax(-1)
        return log_p[range(len(e.target_ids)), list(e.target_ids)].sum()

    def read(self, e: kn.Encoded, site: str) -> Tensor:
        _, cache = self.model.run_with_cache(e.tokens)
        return cache[hook_name(site, self.layer)][0, e.subject[-1]].detach().float()

    def run(self, steps: int = 20, lr: float = 0.5, decay: float = 0.5, clamp: float = 4.0, kl: float = 0.0625):
        v0 = self.read(self.bare, self.site)
        delta = torch.zeros_like(v0, requires_grad=True)
        adam = torch.optim.Adam([delta], lr=lr)
        at = self.essence.subject[-1]
        before = self.logits(self.essence, torch.zeros_like(v0))[at].log_softmax(-1).detach()
        curve = []
        for step in range(steps):
            nll = -torch.stack([self.log_p(e, delta) for e in self.rows]).mean()
            after = self.logits(self.essence, delta)[at].log_softmax(-1)
            loss = nll + kl * (after.exp() * (after - before)).sum() + decay * delta.norm() / v0.norm() ** 2
            curve.append((-float(nll.detach()), float(loss.detach())))
            if float(loss.detach()) < 0.05 or step == steps - 1:
                break
            adam.zero_grad()
            loss.backward(inputs=[delta])
            adam.step()
            with torch.no_grad():
                if delta.norm() > clamp * v0.norm():
                    delta.mul_(clamp * v0.norm() / delta.norm())
        keys = torch.stack([self.read(e, "mlp.hook_post") for e in self.rows])
        return delta.detach(), curve, keys.mean(0), self.read(self.bare, "mlp.hook_post")
