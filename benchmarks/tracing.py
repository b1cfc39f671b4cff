"""A full causal-tracing grid against the plain loop: `python benchmarks/tracing.py`.

The plain loop is how released code works: for each layer and token one forward pass of its own over the whole prompt,
with the samples of noise as its batch. Both run in this process, on the same weights, threads and noise. The loop's
time is that of every `--every`th cell, scaled up (with `--every 1`: of all of them), without its clean run. CPU seconds
are given too: they change less on a busy machine. Peak memory is that of each in a process of its own.

Most of the ratio is arithmetic, and it is printed: positions x layers that are run, weighted with their parameters.
A restored state in layer l leaves l layers of the corrupted run as they are, and a state at token t all tokens before
it; the loop computes both again for every cell, and the logits of every token.
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
from kntools.tracing.noise import make_noise, subject_embeddings

PROMPT = kn.Prompt("The Colosseum is located in the city of", " Rome", subject="The Colosseum")
SAMPLES = 10


def clean_states(model: Any) -> Any:
    tokens = kn.encode(model, PROMPT).tokens
    return model.run_with_cache(tokens, names_filter=lambda name: name.endswith("hook_resid_post"))[1]


def plain_loop(model: Any, noise: Tensor, cache: Any, cells: list[tuple[int, int]]) -> Tensor:
    """Scores of some cells `[cell]`, one forward pass each."""
    e = kn.encode(model, PROMPT)
    batch = e.tokens.expand(SAMPLES, -1)
    corrupt = kn.corrupt(e.subject, noise)
    scores = []
    for layer, token in cells:
        name = f"blocks.{layer}.hook_resid_post"

        def restore(x: Tensor, hook: Any, name: str = name, token: int = token) -> Tensor:
            x = x.clone()
            x[:, token] = cache[name][:, token]
            return x

        p = model.run_with_hooks(batch, fwd_hooks=[*corrupt, (name, restore)])[:, -1].softmax(-1)
        scores.append(p[:, e.target_ids[0]].mean())
    return torch.stack(scores)


def ours(model: Any, kind: str = "hidden") -> kn.Trace:
    return kn.causal_trace(model, PROMPT, kind=kind, samples=SAMPLES)


def timed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def arithmetic(model: Any, trace: kn.Trace) -> tuple[float, float]:
    """Multiply-adds of the loop and of ours, from what each runs."""
    layers, length, first = model.cfg.n_layers, len(trace.tokens), trace.subject[0]
    block = sum(p.numel() for p in model.blocks[0].parameters())
    unembed = model.cfg.d_model * model.cfg.d_vocab
    plain = layers * length * SAMPLES * length * (layers * block + unembed)
    mine = 0
    for start in range(first, length):
        # The corrupted run itself (kept prefix and the rest), and a row per layer from the next layer on.
        shared = length * layers * block + unembed
        rows = sum((length - start) * min(layers - layer - 1, layers) * block + unembed for layer in range(layers))
        mine += SAMPLES * (shared + rows)
    return float(plain), float(mine)


def peak_memory(which: str) -> float:
    """GiB above the loaded model, of one grid (of the loop: some cells, for all take the same) in its own process."""
    command = [sys.executable, __file__, "--only", which]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(json.loads(out.splitlines()[-1])["gib"])


@torch.no_grad()
def measure_alone(which: str) -> None:
    model = kn.load_model("smollm2-135m", device="cpu")
    e = kn.encode(model, PROMPT)
    noise = make_noise(subject_embeddings(model, e)[0], "3sigma", SAMPLES, seed=0)
    cells = [(0, 1), (15, 5), (29, e.position)]
    loop: Callable[[], Any] = lambda: plain_loop(model, noise, clean_states(model), cells)  # noqa: E731
    print(json.dumps({"gib": peak_gib((lambda: ours(model)) if which == "ours" else loop)}))


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--every", type=int, default=3, help="time every n-th cell of the plain loop")
    parser.add_argument("--only", choices=["plain", "ours"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        measure_alone(args.only)
        return
    model = kn.load_model("smollm2-135m", device="cpu")
    kn.causal_trace(model, kn.Prompt("Rome is in", " Italy", subject="Rome"), samples=1)  # warms up
    trace, wall, cpu = timed(lambda: ours(model))
    seconds = {"hidden": wall}
    layers, length = trace.scores.shape
    cells = [(layer, token) for layer in range(layers) for token in range(length)][:: args.every]
    cache = clean_states(model)
    plain_loop(model, trace.noise, cache, cells[:1])  # warms up
    theirs, loop_wall, loop_cpu = timed(lambda: plain_loop(model, trace.noise, cache, cells))
    scale = layers * length / len(cells)
    difference = max(abs(float(trace.scores[cell]) - float(score)) for cell, score in zip(cells, theirs, strict=True))
    by_count, mine = arithmetic(model, trace)
    print(
        f"{torch.get_num_threads()} threads, {length} tokens, {layers} layers, {SAMPLES} samples\n"
        f"  plain loop {loop_wall * scale:.1f} s ({loop_cpu * scale:.1f} s CPU), ours {wall:.1f} s ({cpu:.1f} s CPU)\n"
        f"  ratio {loop_wall * scale / wall:.1f} (CPU {loop_cpu * scale / cpu:.1f}); by count of multiply-adds "
        f"{by_count:.2e} / {mine:.2e} = {by_count / mine:.1f}\n"
        f"  largest difference {difference:.1e}"
    )
    for kind in ("mlp", "attn"):
        _, seconds[kind], cpu = timed(lambda: ours(model, kind))  # noqa: B023
        print(f"  {kind}, windows of 10 layers: {seconds[kind]:.1f} s ({cpu:.1f} s CPU)")
    print(f"  full grid of one fact, three kinds: {sum(seconds.values()):.1f} s")
    print(f"peak memory above the model: plain {peak_memory('plain'):.2f} GiB, ours {peak_memory('ours'):.2f} GiB")


if __name__ == "__main__":
    main()
