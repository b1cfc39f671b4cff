"""Train tiny-bert, the masked language model that ships with kntools.

    python scripts/train_tiny_bert.py                 # retrain into kntools/models/tiny-bert (minutes on one core)
    python scripts/train_tiny_bert.py --out DIR       # ... into another folder
    python scripts/train_tiny_bert.py --check         # evaluate what --out holds; exit 1 below the bars
    python scripts/train_tiny_bert.py --compare DIR   # ... and say in the card how far an earlier training lies apart
    python scripts/train_tiny_bert.py --text 20       # print the first lines of the training text and stop

It needs torch and transformers alone, no network, and no data but the tables in `kntools/data/sample`.
"""

from __future__ import annotations

import argparse
import io
import sys
import time
from pathlib import Path

import torch
from tiny_bert.card import Run, comparison, model_card, modifier_rates
from tiny_bert.evaluation import Score, evaluate, learned_rates, total
from tiny_bert.model import BATCH, STEPS, load, train
from tiny_bert.text import training_text

DEFAULT_OUT = Path(__file__).resolve().parents[1] / "kntools" / "models" / "tiny-bert"
BARS = {"held-out": 0.95, "facts": 0.98}


def print_scores(scores: dict[str, Score]) -> bool:
    """One line for each kind; whether every bar is reached, by every kind that the bar speaks of."""
    good = True
    for kind, score in scores.items():
        bar = next((bar for name, bar in BARS.items() if name in kind), 0.0)
        good &= score.accuracy >= bar
        print(f"{score.accuracy:.4f}  {score.total:5d}  {kind}" + ("" if score.accuracy >= bar else f"  < {bar}"))
    for name in BARS:
        print(f"{total(scores, name).accuracy:.4f}  {total(scores, name).total:5d}  all {name}")
    return good


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder of the model")
    parser.add_argument("--seed", type=int, default=0, help="seed of text, weights and order (default 0)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"training steps (default {STEPS})")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1: small matrices gain little)")
    parser.add_argument("--check", action="store_true", help="evaluate the model in --out; do not train")
    parser.add_argument("--compare", type=Path, metavar="DIR", help="also state how far the model in DIR lies apart")
    parser.add_argument("--text", type=int, metavar="N", help="print N lines of training text; do not train")
    options = parser.parse_args()
    if options.text is not None:
        if isinstance(sys.stdout, io.TextIOWrapper):  # the same bytes on every system
            sys.stdout.reconfigure(encoding="utf-8", newline="\n")
        for line in training_text(options.seed, options.text):
            print(line)
        return 0
    torch.set_num_threads(options.threads)
    other = evaluate(*load(options.compare)) if options.compare else None
    if options.check:
        scores = evaluate(*load(options.out))
        if other is not None:
            print(comparison(scores, other))
        return 0 if print_scores(scores) else 1

    start, start_cpu = time.perf_counter(), time.process_time()

    def report(step: int, loss: float) -> None:
        if (step + 1) % 100 == 0 or step + 1 == options.steps:
            print(f"step {step + 1}/{options.steps}  loss {loss:.3f}  {time.perf_counter() - start:.0f} s", flush=True)

    model, tokenizer = train(options.seed, options.steps, report=report)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    scores = evaluate(model, tokenizer)
    run = Run(
        # Spelled out rather than copied from sys.argv: a path of this machine has no place in the card.
        command=f"python scripts/train_tiny_bert.py --seed {options.seed} --steps {options.steps}",
        seed=options.seed,
        steps=options.steps,
        batch=BATCH,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        threads=options.threads,
        again="" if other is None else f"\nTrained once more with the same seed: {comparison(scores, other)}.",
    )
    options.out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    # safetensors writes its file for the owner alone; a package is for everyone.
    (options.out / "model.safetensors").chmod(0o644)
    card = model_card(model, scores, learned_rates(model, tokenizer), run)
    (options.out / "README.md").write_text(card, encoding="utf-8", newline="\n")
    (options.out / "modifier_rates.tsv").write_text(modifier_rates(), encoding="utf-8", newline="\n")
    good = print_scores(scores)
    print(f"wrote {options.out}; {seconds:.0f} s")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
