"""A layer x position patching grid against TransformerLens' own: `python benchmarks/patching.py`.

`transformer_lens.patching.get_act_patch_resid_pre` runs the whole prompt through the whole model once per cell. Both
run in this process, on the same weights and threads. Peak memory is that of each in a process of its own.

The two pairs have 15 tokens and differ at once, or late: where they are the same, patching changes nothing, and those
cells are not run.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from peak import peak_gib
from torch import Tensor

import kntools as kn
from kntools.engine.prompt_pairs import encode_pairs

CLEAN = kn.Prompt("When John and Mary went to the store, John gave a drink to", " Mary", foil=" John")
CORRUPTED = {
    "differ at token 2": "When Mary and John went to the store, Mary gave a drink to",
    "differ at token 10": "When John and Mary went to the store, Mary gave a drink to",
}


def theirs(model: Any, corrupted: str) -> Tensor:
    from transformer_lens.patching import get_act_patch_resid_pre

    [pair] = encode_pairs(model, CLEAN, corrupted)
    right, wrong = pair.clean.target_ids[0], pair.clean.foil_ids[0]
    with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, cache = model.run_with_cache(pair.clean.tokens)
        return get_act_patch_resid_pre(
            model, pair.corrupted.tokens, cache, lambda logits: logits[0, -1, right] - logits[0, -1, wrong]
        )


def ours(model: Any, corrupted: str, **options: Any) -> kn.PatchGrid:
    return kn.activation_patch(model, CLEAN, corrupted, site="resid_pre", **options)


def timed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def peak_memory(which: str) -> float:
    """GiB above the loaded model, of one grid in a process of its own."""
    command = [sys.executable, __file__, "--only", which]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(json.loads(out.splitlines()[-1])["gib"])


def measure_alone(which: str) -> None:
    model = kn.load_model("smollm2-135m", device="cpu")
    grid = theirs if which == "plain" else ours
    print(json.dumps({"gib": peak_gib(lambda: grid(model, next(iter(CORRUPTED.values()))))}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["plain", "ours"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        measure_alone(args.only)
        return
    model = kn.load_model("smollm2-135m", device="cpu")
    ours(model, CORRUPTED["differ at token 10"], layers=[29])  # warms up
    print(f"{torch.get_num_threads()} threads")
    for name, corrupted in CORRUPTED.items():
        grid, wall, cpu = timed(lambda: ours(model, corrupted))  # noqa: B023
        loop, loop_wall, loop_cpu = timed(lambda: theirs(model, corrupted))  # noqa: B023
        layers, length = grid.values.shape
        difference = (loop - grid.values).abs().max() / (abs(grid.clean) + abs(grid.corrupted))
        fast, fast_wall, _ = timed(
            lambda: kn.attribution_patch(model, CLEAN, corrupted, site="resid_pre")  # noqa: B023
        )
        print(
            f"{length} tokens, {layers} layers, {name}: transformer_lens {loop_wall:.1f} s ({loop_cpu:.1f} s CPU), "
            f"ours {wall:.1f} s ({cpu:.1f} s CPU): ratio {loop_wall / wall:.1f} (CPU {loop_cpu / cpu:.1f})\n"
            f"  largest difference {difference:.1e} of the clean - corrupted range; attribution patching "
            f"{fast_wall:.1f} s, correlation {grid.agreement(fast)['pearson']:.2f}"
        )
    print(f"peak memory above the model: plain {peak_memory('plain'):.2f} GiB, ours {peak_memory('ours'):.2f} GiB")


if __name__ == "__main__":
    main()
