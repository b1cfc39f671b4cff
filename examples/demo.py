"""Where does a model keep a fact, and is it really there? The main job of this repository.

    python examples/demo.py --out out/demo

On a real model and real facts: attribution of every MLP neuron, the knowledge neurons of each fact over several
phrasings, what happens to the answer and to unrelated answers when they are suppressed or enhanced, and the control,
random neurons of the same layers. Writes one page, `index.html`, that opens offline, and its tables as CSV.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from facts import FACTS, Fact
from torch import Tensor

import kntools as kn
from kntools.control import Edit, answer_probabilities, random_like, untouched

DEFAULT_MODEL = "smollm2-135m"


@dataclass(frozen=True)
class Results:
    """Everything the page shows. Means are over the phrasings of a fact."""

    facts: tuple[Fact, ...]
    parts: tuple[kn.Attribution, ...]  # one per fact
    neurons: tuple[kn.KnowledgeNeurons, ...]  # one per fact
    clean: Tensor  # [fact]
    suppressed: Tensor  # [fact fact]: knowledge neurons of the first, answer to the second
    enhanced: Tensor  # [fact fact]
    leading: Tensor  # [fact]: its own leading neurons suppressed
    random: Tensor  # [fact draw]: as many random ones of the same layers
    top: int
    says: tuple[tuple[str, str, str], ...]  # first choice: untouched, suppressed, enhanced; first phrasing
    seconds: float


def attribute(model: Any, facts: Sequence[Fact], bos: bool) -> list[kn.Attribution]:
    """Attribution of all phrasings of all facts at once (prompts of equal length share passes), then one per fact."""
    prompts = [p for fact in facts for p in fact.prompts]
    everything = kn.integrated_gradients(model, prompts, prepend_bos=bos)
    parts, start = [], 0
    for fact in facts:
        rows = slice(start, start + len(fact.texts))
        tensors = {
            name: getattr(everything, name)[rows] for name in ("scores", "residual", "gap", "probability", "nodes")
        }
        parts.append(replace(everything, prompts=everything.prompts[rows], **tensors))
        start = rows.stop
    return parts


def effects(model: Any, facts: Sequence[Fact], edits: Sequence[Edit], bos: bool) -> Tensor:
    """Mean probability of every fact's answer under every edit: `[edit fact]`."""
    prompts = [p for fact in facts for p in fact.prompts]
    found = answer_probabilities(model, prompts, edits, prepend_bos=bos, progress=True)
    return torch.stack([part.mean(1) for part in found.split([len(f.texts) for f in facts], dim=1)], dim=1)


def control(
    model: Any, facts: Sequence[Fact], parts: Sequence[kn.Attribution], *, top: int, draws: int, seed: int, bos: bool
) -> tuple[Tensor, Tensor]:
    """Suppress the leading neurons of each fact, and random ones of the same layers: `[fact]`, `[fact draw]`."""
    generator = torch.Generator().manual_seed(seed)
    leading, random = [], []
    for fact, part in zip(facts, parts, strict=True):
        neurons = part.top(top)
        others = [random_like(neurons, part.scores.shape[-1], generator) for _ in range(draws)]
        edits = [partial(kn.ablate_neurons, n) for n in (neurons, *others)]
        values = answer_probabilities(model, fact.prompts, edits, prepend_bos=bos).mean(1)
        leading.append(values[0])
        random.append(values[1:])
    return torch.stack(leading), torch.stack(random)


def first_choices(model: Any, fact: Fact, kns: kn.KnowledgeNeurons, bos: bool) -> tuple[str, str, str]:
    """What the model would say after the first phrasing: untouched, suppressed, enhanced."""
    tokens = kn.encode(model, fact.prompts[0], bos).tokens
    logits = kn.sweep(model, tokens, [[], kn.ablate_neurons(kns), kn.enhance_neurons(kns)])
    shown = [model.tokenizer.decode([i]) for i in logits.argmax(-1).tolist()]
    return shown[0], shown[1], shown[2]


def run(model: Any, facts: Sequence[Fact], *, top: int, draws: int, seed: int, bos: bool) -> Results:
    """The whole experiment."""
    began = time.perf_counter()
    _say(f"attribution of {sum(len(f.texts) for f in facts)} prompts ...")
    parts = attribute(model, facts, bos)
    neurons = [kn.knowledge_neurons(part) for part in parts]

    _say("suppressing and enhancing the knowledge neurons ...")
    off: list[Edit] = [partial(kn.ablate_neurons, kns.neurons) for kns in neurons]
    twice: list[Edit] = [partial(kn.enhance_neurons, kns.neurons) for kns in neurons]
    values = effects(model, facts, [untouched, *off, *twice], bos)
    clean, suppressed, enhanced = values.split([1, len(facts), len(facts)])
    says = [first_choices(model, fact, kns, bos) for fact, kns in zip(facts, neurons, strict=True)]

    _say(f"suppressing the {top} leading neurons, and {draws} x {top} random ones of the same layers ...")
    leading, random = control(model, facts, parts, top=top, draws=draws, seed=seed, bos=bos)
    return Results(
        facts=tuple(facts),
        parts=tuple(parts),
        neurons=tuple(neurons),
        clean=clean[0],
        suppressed=suppressed,
        enhanced=enhanced,
        leading=leading,
        random=random,
        top=top,
        says=tuple(says),
        seconds=time.perf_counter() - began,
    )


def summary(results: Results) -> str:
    """A short table for the terminal."""
    width = max(len(f.name) for f in results.facts)
    lines = [f"{'fact':{width}}  before  suppressed  enhanced  top-{results.top} off  random-{results.top} off"]
    for i, fact in enumerate(results.facts):
        lines.append(
            f"{fact.name:{width}}  {results.clean[i]:6.3f}  {results.suppressed[i, i]:10.3f}  "
            f"{results.enhanced[i, i]:8.3f}  {results.leading[i]:{8 + len(str(results.top))}.3f}  "
            f"{results.random[i].mean():.3f} ({results.random[i].min():.3f} to {results.random[i].max():.3f})"
        )
    return "\n".join(lines)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=str(__doc__).split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the page and its tables")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="a name, a local folder or a Hugging Face id")
    parser.add_argument("--facts", type=int, default=len(FACTS), help="how many of the facts to use")
    parser.add_argument("--top", type=int, default=20, help="leading neurons to suppress in the control")
    parser.add_argument("--draws", type=int, default=20, help="draws of random neurons in the control")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random neurons")
    parser.add_argument("--bos", action="store_true", help="put the beginning-of-sequence token first")
    return parser


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    given = parser.parse_args(argv)
    if not 1 <= given.facts <= len(FACTS):
        parser.error(f"--facts {given.facts}: there are {len(FACTS)}; give 1 to {len(FACTS)}")
    if given.top < 1 or given.draws < 1:
        parser.error(f"--top {given.top} --draws {given.draws}: both must be at least 1")
    return given


def _command(given: argparse.Namespace) -> str:
    """What to type to make the page again: all options that are not at their defaults."""
    words = ["python", "examples/demo.py", "--out", "DIR"]
    for name, value in vars(given).items():
        if name != "out" and value != _parser().get_default(name):
            words += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return shlex.join(words)


def main(argv: Sequence[str] | None = None) -> Results:
    given = _arguments(argv)
    from demo_page import write_page

    try:
        _say(f"loading {given.model} (the first time takes longer) ...")
        model = kn.load_model(given.model)
        results = run(model, FACTS[: given.facts], top=given.top, draws=given.draws, seed=given.seed, bos=given.bos)
        path = write_page(given.out, results, _command(given))
    except (ValueError, ModuleNotFoundError, OSError) as error:
        sys.exit(f"demo: {error}")
    print(summary(results))
    print(f"\n{results.seconds:.0f} s. The page: {path}")
    return results


if __name__ == "__main__":
    main()
