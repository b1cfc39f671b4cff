"""One rank-one edit, and 32 together, against the plain loop: `python benchmarks/rome.py`.

The plain loop is how one would write it down: in every step of the value optimisation each template is a forward pass
and a backward pass of its own, over the whole text and all blocks. Both run in this process, on the same weights,
threads and templates; parameters get no gradients in either. The loop's time is that of `--steps` steps, scaled up to
20; that of 32 edits is estimated from every eighth. CPU seconds are given too: they change less on a busy machine.
Peak memory is that of each in a process of its own.

Most of the ratio is arithmetic, and it is printed: positions x layers that are run, weighted with their parameters.
The loop runs the words before the subject, and the blocks below the edited layer, again in every step.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from peak import peak_gib
from torch import Tensor

import kntools as kn
from kntools.editing.requests import EditRows, make_requests, make_rows
from kntools.editing.rome_batch import RowBatch
from kntools.editing.rome_settings import TEMPLATES, RomeSettings

TARGET, STEPS = " Rome", 20
CAPITALS = (
    "Canada Ottawa, France Paris, Japan Tokyo, Germany Berlin, Norway Oslo, Spain Madrid, Kenya Nairobi, "
    "Cuba Havana, Egypt Cairo, Peru Lima, Chile Santiago, Greece Athens, Russia Moscow, China Beijing, "
    "Poland Warsaw, Austria Vienna, Sweden Stockholm, Finland Helsinki, Denmark Copenhagen, Ireland Dublin, "
    "Portugal Lisbon, Belgium Brussels, Hungary Budapest, Turkey Ankara, Iran Tehran, Iraq Baghdad, "
    "Thailand Bangkok, Vietnam Hanoi, Nepal Kathmandu, Ukraine Kyiv, Cyprus Nicosia, Ghana Accra"
)
FACTS = [
    kn.Prompt(f"The capital of {country} is", f" {city}", subject=country)
    for country, city in (pair.split() for pair in CAPITALS.split(", "))
]


def texts_of(model: Any, prompt: kn.Prompt) -> EditRows:
    """The texts of the edit."""
    return make_rows(model, make_requests(model, prompt, TARGET, "rome"), RomeSettings())[0]


def plain_loop(model: Any, layer: int, steps: int, prompt: kn.Prompt = FACTS[0]) -> list[float]:
    """-log P(target), mean over templates, at each step."""
    rows = texts_of(model, prompt)
    name = f"blocks.{layer}.mlp.hook_out"

    def logits(e: kn.Encoded, delta: Tensor) -> Tensor:
        at = subject_end(e)

        def add(x: Tensor, hook: Any) -> Tensor:
            return x.index_put((torch.tensor([0]), torch.tensor([at])), x[:1, at] + delta)

        return model.run_with_hooks(e.tokens, fwd_hooks=[(name, add)])[0]

    for parameter in model.parameters():  # a gradient of activations alone
        parameter.requires_grad_(False)
    with torch.enable_grad():
        _, cache = model.run_with_cache(rows.bare.tokens, names_filter=[name])
        v0 = cache[name][0, subject_end(rows.bare)].detach()
        delta = torch.zeros_like(v0, requires_grad=True)
        with torch.no_grad():
            before = logits(rows.essence, delta)[rows.ends[-1]].log_softmax(-1)
        adam = torch.optim.Adam([delta], lr=0.5)
        curve = []
        for step in range(steps):
            adam.zero_grad()
            total = 0.0
            for e, weight in zip(rows.prompts, rows.weights, strict=True):
                loss = -weight * logits(e, delta)[-1].log_softmax(-1)[e.target_ids[0]]
                total += float(loss.detach())
                loss.backward(inputs=[delta])
            after = logits(rows.essence, delta)[rows.ends[-1]].log_softmax(-1)
            rest = 0.0625 * (after.exp() * (after - before)).sum() + 0.5 * delta.norm() / v0.norm() ** 2
            rest.backward(inputs=[delta])
            curve.append(total)
            if step < steps - 1:
                adam.step()
                with torch.no_grad():
                    delta.mul_((4.0 * v0.norm() / delta.norm()).clamp(max=1))
    return curve


def ours(model: Any, layer: int, steps: int = STEPS, prompts: Sequence[kn.Prompt] = FACTS[:1]) -> list[kn.RankOneEdit]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        settings = RomeSettings(steps=steps, stop_loss=0.0)
        return kn.rome(model, prompts, [TARGET] * len(prompts), layer=layer, settings=settings)


def subject_end(e: kn.Encoded) -> int:
    assert e.subject is not None
    return e.subject[-1]


def timed(run: Callable[[], Any]) -> tuple[Any, float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = run()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def arithmetic(model: Any, layer: int) -> tuple[float, float]:
    """Multiply-adds of one step of the loop and of ours, forward and backward, from what each runs."""
    layers = model.cfg.n_layers
    block = sum(p.numel() for p in model.blocks[0].parameters())
    unembed = model.cfg.d_model * model.cfg.d_vocab
    rows = texts_of(model, FACTS[0])
    lengths = [e.tokens.shape[1] for e in rows.encoded]
    plain = sum(lengths) * ((layers + layers - layer) * block + 2 * unembed)
    mine = 0
    for group in RowBatch(model, [rows], layer).groups:
        count, window = len(group.numbers), group.tokens.shape[1] - group.start
        mine += count * window * 2 * (layers - layer) * block + window * layer * block + 2 * count * unembed
    return float(plain), float(mine)


def peak_memory(which: str, layer: int) -> float:
    """GiB above the loaded model, in a process of its own."""
    command = [sys.executable, __file__, "--only", which, "--layer", str(layer)]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(json.loads(out.splitlines()[-1])["gib"])


def measure_alone(which: str, layer: int) -> None:
    model = kn.load_model("smollm2-135m", device="cpu", prepend_bos=False)
    work: dict[str, Callable[[], Any]] = {
        "plain": lambda: plain_loop(model, layer, 2),
        "ours": lambda: ours(model, layer, 3),
        "together": lambda: ours(model, layer, 3, FACTS),
    }
    print(json.dumps({"gib": peak_gib(work[which])}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layer", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="steps of the plain loop that are timed")
    parser.add_argument("--only", choices=["plain", "ours", "together"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        measure_alone(args.only, args.layer)
        return
    model = kn.load_model("smollm2-135m", device="cpu", prepend_bos=False)
    ours(model, args.layer, 2)  # warms up
    [edit], wall, cpu = timed(lambda: ours(model, args.layer))
    curve, loop_wall, loop_cpu = timed(lambda: plain_loop(model, args.layer, args.steps))
    scale = STEPS / args.steps
    difference = max(abs(a.target - b) for a, b in zip(edit.steps, curve, strict=False))
    by_count, mine = arithmetic(model, args.layer)
    print(
        f"{torch.get_num_threads()} threads, layer {args.layer}, {len(TEMPLATES)} templates, {STEPS} steps\n"
        f"  plain loop {loop_wall * scale:.1f} s ({loop_cpu * scale:.1f} s CPU), one edit of ours {wall:.1f} s "
        f"({cpu:.1f} s CPU)\n"
        f"  ratio {loop_wall * scale / wall:.1f} (CPU {loop_cpu * scale / cpu:.1f}); by count of multiply-adds "
        f"{by_count:.2e} / {mine:.2e} = {by_count / mine:.1f}\n"
        f"  largest difference in -log P(target) {difference:.1e}"
    )
    edits, wall, cpu = timed(lambda: ours(model, args.layer, prompts=FACTS))
    some = FACTS[::8]
    _, loop_wall, loop_cpu = timed(lambda: [plain_loop(model, args.layer, args.steps, fact) for fact in some])
    ratios = (
        loop / len(some) * scale * len(edits) / together for loop, together in ((loop_wall, wall), (loop_cpu, cpu))
    )
    print(
        f"  {len(edits)} edits together: {wall / len(edits):.1f} s each ({cpu / len(edits):.1f} s CPU); "
        "ratio {:.1f} (CPU {:.1f})".format(*ratios)
    )
    memory = [peak_memory(which, args.layer) for which in ("plain", "ours", "together")]
    print(
        f"peak memory above the model: plain {memory[0]:.2f} GiB, ours {memory[1]:.2f} GiB, "
        f"{len(edits)} edits together {memory[2]:.2f} GiB"
    )


if __name__ == "__main__":
    main()
