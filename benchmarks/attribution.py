"""Integrated gradients of one prompt against the plain loop: `python benchmarks/attribution.py`.

The plain loop is how released code works: for each layer, the 20 scaled copies of the activations as one batch, over
the whole prompt, with a forward and a backward pass of its own through the whole model. Both run in this process, on
the same weights and threads, taking turns; what is reported is a ratio. Peak memory is that of each in a process of
its own. The share of the machine is the arithmetic of the passes that were run, over what a large matrix product
reaches here.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from peak import peak_gib
from torch import Tensor

import kntools as kn
from kntools.sites import hook_name

PROMPTS = [
    kn.Prompt("The capital of Canada is", " Ottawa"),
    kn.Prompt("The Eiffel Tower is located in the city of", " Paris"),
]
STEPS = 20
TOGETHER = [kn.Prompt(f"The capital of {country} is", " the") for country in (
    "France", "Italy", "Japan", "Germany", "Spain", "Russia", "Egypt", "England",
    "China", "India", "Greece", "Turkey", "Poland", "Norway", "Sweden", "Canada",
)]  # fmt: skip


def plain_loop(model: Any, prompt: kn.Prompt) -> Tensor:
    """Scores `[layer neuron]`, as released code computes them (its nodes and weights, its passes)."""
    e = kn.encode(model, prompt)
    target = e.target_ids[0]
    factors = torch.linspace(0, 1, STEPS)
    batch = e.tokens.repeat(STEPS, 1)
    scores = []
    for layer in range(model.cfg.n_layers):
        name = hook_name("mlp.hook_post", layer)
        kept: list[Tensor] = []

        def scale(x: Tensor, hook: Any, kept: list[Tensor] = kept) -> Tensor:
            scaled = (x[:, -1].detach() * factors[:, None]).requires_grad_()
            kept.extend([x[0, -1].detach(), scaled])
            out = x.detach().clone()
            out[:, -1] = scaled
            return out

        p = model.run_with_hooks(batch, fwd_hooks=[(name, scale)])[:, -1].softmax(-1)[:, target]
        [gradient] = torch.autograd.grad(p.sum(), [kept[1]])
        scores.append(kept[0] * gradient.sum(0) / STEPS)
    return torch.stack(scores)


def ours(model: Any, prompt: kn.Prompt | list[kn.Prompt], **options: Any) -> kn.Attribution:
    return kn.integrated_gradients(model, prompt, **options)


def seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def matmul_rate() -> float:
    """Multiply-adds per second, times two, of a 2,048 x 2,048 product."""
    a = torch.randn(2048, 2048, generator=torch.Generator().manual_seed(0))
    best = min(seconds(lambda: a @ a) for _ in range(5))
    return 2 * 2048**3 / best


def useful_arithmetic(model: Any, att: kn.Attribution) -> float:
    """Floating-point operations of the rows that the rule needed: forward and backward from their layer on."""
    layers = model.cfg.n_layers
    weights = sum(p.numel() for p in model.blocks[0].parameters())
    unembed = model.cfg.d_model * model.cfg.d_vocab
    rows = sum(int(n) * ((layers - layer) * weights + unembed) for layer, n in enumerate(att.nodes[0].tolist()))
    return 2 * 2 * rows


def contrasts(model: Any, rounds: int) -> str:
    """The contrast by name, which reads two logits of a row, against the same as a function that may read all."""
    pairs = [kn.Prompt(prompt.text, prompt.target, foil=" a") for prompt in TOGETHER]
    ids = [(e.target_ids[0], e.foil_ids[0]) for e in (kn.encode(model, pair) for pair in pairs) if e.foil_ids]
    functions = [lambda logits, t=target, f=foil: logits[:, t] - logits[:, f] for target, foil in ids]
    times: dict[str, list[float]] = {"function": [], "name": []}
    for _ in range(rounds):
        times["function"].append(seconds(lambda: ours(model, pairs, metric=functions)))
        times["name"].append(seconds(lambda: ours(model, pairs)))
    best = {name: min(values) for name, values in times.items()}
    return (
        f"contrasts of {len(pairs)} prompts: as functions of all logits {best['function']:.1f} s, by name "
        f"{best['name']:.1f} s, ratio {best['function'] / best['name']:.2f}"
    )


def peak_memory(which: str) -> float:
    """GiB above the loaded model, of one attribution in a process of its own."""
    command = [sys.executable, __file__, "--only", which]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(json.loads(out.splitlines()[-1])["gib"])


def measure_alone(which: str) -> None:
    model = kn.load_model("smollm2-135m", prepend_bos=False, device="cpu")
    model(torch.tensor([[1, 2, 3]]))
    print(json.dumps({"gib": peak_gib(lambda: (plain_loop if which == "plain" else ours)(model, PROMPTS[1]))}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["plain", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--contrasts", metavar="MODEL", help="only the contrasts, on this model")
    args = parser.parse_args()
    if args.only:
        measure_alone(args.only)
        return
    if args.contrasts:
        print(contrasts(kn.load_model(args.contrasts, prepend_bos=False, device="cpu"), args.rounds))
        return
    model = kn.load_model("smollm2-135m", prepend_bos=False, device="cpu")
    rate = matmul_rate()
    print(f"{torch.get_num_threads()} threads, {rate / 1e9:.0f} GFLOP/s in a matrix product")
    for prompt in PROMPTS:
        att = ours(model, prompt)  # also warms up
        times: dict[str, list[float]] = {"plain": [], "adaptive": [], "20 nodes": []}
        for _ in range(args.rounds):
            times["plain"].append(seconds(lambda: plain_loop(model, prompt)))  # noqa: B023
            times["adaptive"].append(seconds(lambda: ours(model, prompt)))  # noqa: B023
            times["20 nodes"].append(seconds(lambda: ours(model, prompt, rule="kn_thesis", steps=20)))  # noqa: B023
        best = {name: min(values) for name, values in times.items()}
        length = kn.encode(model, prompt).tokens.shape[1]
        same = ours(model, prompt, rule="kn_thesis", steps=20)
        theirs = plain_loop(model, prompt)
        print(
            f"{length} tokens: plain loop {best['plain']:.2f} s, adaptive {best['adaptive']:.2f} s, "
            f"20 nodes in the same engine {best['20 nodes']:.2f} s\n"
            f"  ratio plain / adaptive {best['plain'] / best['adaptive']:.1f}; "
            f"plain / 20 nodes {best['plain'] / best['20 nodes']:.1f}; "
            f"adaptive / 20 nodes {best['adaptive'] / best['20 nodes']:.2f}\n"
            f"  share of the matrix-product rate {useful_arithmetic(model, att) / best['adaptive'] / rate:.0%}\n"
            f"  same rule, both ways: largest difference {float((same.scores[0] - theirs).abs().max()):.1e}; "
            f"largest residual: plain {float((theirs.sum(-1) - att.gap[0]).abs().max()):.3f}, "
            f"adaptive {float(att.residual.abs().max()):.5f}"
        )
    alone = min(seconds(lambda: [ours(model, prompt) for prompt in TOGETHER]) for _ in range(2))
    together = min(seconds(lambda: ours(model, TOGETHER)) for _ in range(2))
    print(
        f"{len(TOGETHER)} prompts: one by one {alone:.1f} s, in one call {together:.1f} s, ratio {alone / together:.2f}"
    )
    print(contrasts(model, args.rounds))
    print(f"peak memory above the model: plain {peak_memory('plain'):.2f} GiB, ours {peak_memory('ours'):.2f} GiB")


if __name__ == "__main__":
    main()
