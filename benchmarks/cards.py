"""Neuron cards of 20 neurons against plain forward passes over the same texts: `python benchmarks/cards.py`.

The plain passes are the whole model (`model(tokens)`), over the same pieces in the same batches. The neurons are in the
last layers too, so that both run all blocks; cards need no logits. Both take turns in this process; what is reported is
the ratio of the best of some rounds. Peak memory is that of each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peak import peak_gib

import kntools as kn
from kntools.engine.generation import sample_texts
from kntools.engine.texts import chunks, passes, pieces

NEURONS = [(layer, 7 * layer + n) for layer in (2, 9, 17, 24, 29) for n in range(4)]


def plain(model: Any, texts: list[str]) -> None:
    with torch.no_grad():
        for ahead in chunks(pieces(model, texts), 256):
            for batch in passes(ahead):
                model(torch.tensor([piece.ids for piece in batch]), return_type="logits")


def ours(model: Any, texts: list[str]) -> list[kn.NeuronCard]:
    return kn.neuron_card(model, NEURONS, texts)


def seconds(run: Callable[[], Any]) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - cpu


def peak_memory(which: str, texts: list[str]) -> float:
    """GiB above the loaded model."""
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(texts, file)
        file.flush()
        command = [sys.executable, __file__, "--only", which, "--texts", file.name]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(json.loads(out.splitlines()[-1])["gib"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=5_000, help="tokens of text, which the model writes")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=["plain", "ours"], help=argparse.SUPPRESS)
    parser.add_argument("--texts", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    model = kn.load_model("smollm2-135m", device="cpu")
    ways: dict[str, Callable[[Any, list[str]], Any]] = {"plain": plain, "ours": ours}
    if args.only:
        texts = json.loads(args.texts.read_text())
        print(json.dumps({"gib": peak_gib(lambda: ways[args.only](model, texts))}))
        return
    texts = list(sample_texts(model, args.tokens, seed=0, rows=64, length=63))
    for run in ways.values():
        run(model, texts[:1])  # warms up
    best = {name: (math.inf, math.inf) for name in ways}
    for _ in range(args.rounds):
        for name, run in ways.items():
            wall, cpu = seconds(lambda: run(model, texts))  # noqa: B023 - called at once
            best[name] = (min(best[name][0], wall), min(best[name][1], cpu))
    (plain_wall, plain_cpu), (wall, cpu) = best["plain"], best["ours"]
    print(
        f"{torch.get_num_threads()} threads, {sum(len(p.ids) for p in pieces(model, texts)):,} tokens, {len(NEURONS)} "
        f"cards\n  plain passes {plain_wall:.1f} s ({plain_cpu:.1f} s CPU), cards {wall:.1f} s ({cpu:.1f} s CPU)\n"
        f"  ratio {wall / plain_wall:.2f} (CPU {cpu / plain_cpu:.2f})",
        flush=True,
    )
    for some in (texts[: len(texts) // 2], texts):
        peaks = ", ".join(f"{name} {peak_memory(name, some):.2f} GiB" for name in ways)
        print(f"peak memory above the model, {len(some)} texts: {peaks}", flush=True)


if __name__ == "__main__":
    main()
