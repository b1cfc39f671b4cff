"""The adaptive rule against 512 midpoints in every layer, on 20 facts: `python benchmarks/accuracy.py`.

Takes about 25 minutes on two cores (307,200 forward and backward rows); `--facts 3` takes 4.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

import kntools as kn
from kntools.attribution.integration_path import Line, Paths
from kntools.attribution.quadrature import fixed_rule

# The facts are those of the tests, which a script in this folder does not find by itself.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from tests.facts import FACTS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--facts", type=int, default=len(FACTS))
    parser.add_argument("--nodes", type=int, default=512)
    args = parser.parse_args()
    model = kn.load_model("smollm2-135m", prepend_bos=False, device="cpu")
    rule = fixed_rule("midpoint", args.nodes)
    print("error of all scores | residual / allowed | nodes in layer 0 | fact", flush=True)
    for fact in FACTS[: args.facts]:
        prompt = kn.Prompt(*fact)
        att = kn.integrated_gradients(model, prompt)
        encoded = kn.encode(model, prompt)
        paths = Paths(model, [encoded], [kn.probability(encoded.target_ids)], "mlp.hook_post", {})
        expected = []
        for layer in range(model.cfg.n_layers):
            line = Line(0, layer)
            with kn.set_options(max_rows=256):
                paths.evaluate({line: rule.nodes.tolist()})
            expected.append(line.integral(rule.nodes.tolist(), rule.weights))
        reference = torch.stack(expected)
        error = float((att.scores[0] - reference).norm() / reference.norm())
        allowed = 0.01 * att.gap[0].abs().clamp(min=0.05)
        worst = float((att.residual[0].abs() / allowed).max())
        print(f"{error:.5f} | {worst:.2f} | {int(att.nodes[0, 0])} | {fact[0]!r} -> {fact[1]!r}", flush=True)


if __name__ == "__main__":
    main()
