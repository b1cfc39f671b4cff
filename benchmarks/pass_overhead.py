"""What a forward pass costs whatever is in it, in token positions: `python benchmarks/pass_overhead.py`.

A sweep joins two passes where that computes fewer further positions than a pass costs (`kntools/engine/plan.py`). Here
sweeps of one pass with 1 to 512 rows of 16 tokens are timed, and a + b * positions is fitted to the times by relative
least squares: a pass costs a / b positions. The models are Llamas of random weights; the constant of a GPU is
a / b * d_model**2, for its time goes into launching the operations of each block.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformer_lens.model_bridge import TransformerBridge
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import kntools as kn
from kntools.engine.plan import pass_overhead

TOKENS = 16


def random_llama(d_model: int, layers: int, dtype: torch.dtype, device: str) -> TransformerBridge:
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=d_model,
        intermediate_size=d_model * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=d_model // 64,
        architectures=["LlamaForCausalLM"],
        attn_implementation="eager",
    )
    words = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"[UNK]": 0}, "[UNK]")))
    model = LlamaForCausalLM(config).to(device=device, dtype=dtype).eval()
    boot = TransformerBridge.boot_transformers
    return boot("random-llama", hf_model=model, tokenizer=words, dtype=dtype, device=device)


def seconds(model: Any, rows: int, gradients: bool, rounds: int) -> float:
    """The best of some rounds, after one that warms up."""
    tokens, point = torch.arange(TOKENS, device=model.cfg.device)[None], "blocks.0.mlp.hook_out"
    hooks = kn.scale_neurons("L0.N0", 0.5, pos=0)
    best = float("inf")
    for _ in range(rounds + 1):
        start = time.perf_counter()
        if gradients:
            run = kn.Intervention(hooks, rows=rows, wrt=[(point, 0)])
            kn.sweep_gradients(model, tokens, [run], kn.probability(0))
        else:
            kn.sweep(model, tokens, [kn.Intervention(hooks, rows=rows)])
        if model.cfg.device != "cpu":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return best


def overhead(positions: list[int], times: list[float]) -> float:
    """a / b of the line a + b * positions through the times."""
    both = np.stack([np.ones(len(times)), np.array(positions)], axis=1) / np.array(times)[:, None]
    (a, b), *_ = np.linalg.lstsq(both, np.ones(len(times)))
    return float(a / b)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--d-model", type=int, nargs="+", default=[576])
    parser.add_argument("--layers", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", nargs="+", default=["float32"])
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    for d_model in given.d_model:
        for dtype in given.dtype:
            model = random_llama(d_model, given.layers, getattr(torch, dtype), given.device)
            for gradients in (False, True):
                times = [seconds(model, rows, gradients, given.rounds) for rows in given.rows]
                found = overhead([TOKENS * rows for rows in given.rows], times)
                kind = "gradients" if gradients else "logits"
                print(f"d_model {d_model}, {dtype}, {kind}: {' '.join(f'{1e3 * t:.1f}' for t in times)} ms")
                print(f"  a pass costs {found:.0f} positions (kntools takes {pass_overhead(model)});", end=" ")
                print(f"times d_model squared {found * d_model**2:.2g}", flush=True)


if __name__ == "__main__":
    main()
