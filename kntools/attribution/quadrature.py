"""Nodes and weights for integrals over the unit interval.

Fixed rules, under the names of who published them, and the Gauss-Lobatto rule with what the adaptive rule needs to
check itself (`adaptive.py`).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float
from numpy.polynomial import legendre, polynomial

from kntools.arguments import whole

#: Published rules with a fixed number of nodes, for `integrated_gradients(rule=...)`.
FixedRule = Literal["midpoint", "gauss_legendre", "dai", "kn_thesis"]


@dataclass(frozen=True)
class Rule:
    """`integral_0^1 f = sum_k weights[k] f(nodes[k])`, nearly."""

    nodes: Float[np.ndarray, " node"]
    weights: Float[np.ndarray, " node"]


def fixed_rule(name: str, steps: int) -> Rule:
    """A published rule with `steps` nodes.

    | name | nodes | source |
    | --- | --- | --- |
    | `midpoint` | (k + 1/2) / n | |
    | `gauss_legendre` | roots of a Legendre polynomial; exact to degree 2n - 1 | |
    | `dai` | k / n, k = 0..n-1: left sums | code of Dai et al. 2022 |
    | `kn_thesis` | linspace(0, 1, n), weights 1/n | code of Niu et al. 2024 and of EleutherAI |
    """
    steps = whole("steps", steps, least=1)
    even = np.full(steps, 1.0 / steps)
    if name == "midpoint":
        return Rule((np.arange(steps) + 0.5) / steps, even)
    if name == "gauss_legendre":
        x, w = legendre.leggauss(steps)
        return Rule((x + 1) / 2, w / 2)
    if name == "dai":
        return Rule(np.arange(steps) / steps, even)
    if name == "kn_thesis":
        return Rule(np.linspace(0, 1, steps), even)
    raise ValueError(f"unknown rule {name!r}; use 'adaptive', {', '.join(map(repr, get_args(FixedRule)))}")


@dataclass(frozen=True)
class LobattoRule(Rule):
    """Gauss-Lobatto: both ends are nodes, exact to degree 2n - 3.

    `running[k] @ f(nodes)` is the integral from 0 to `nodes[k]` of the polynomial through all nodes.
    """

    running: Float[np.ndarray, "node node"]


@lru_cache
def lobatto(n: int) -> LobattoRule:
    # Between the ends, its nodes are the roots of the derivative of P_{n-1}.
    inner = np.sort(legendre.legroots(legendre.legder([0.0] * (n - 1) + [1.0])).real)
    nodes = np.concatenate([[0.0], (inner + 1) / 2, [1.0]])
    running = np.empty((n, n))
    for j in range(n):
        others = np.delete(nodes, j)
        lagrange = polynomial.polyfromroots(others) / np.prod(nodes[j] - others)
        running[:, j] = polynomial.polyval(nodes, polynomial.polyint(lagrange))
    return LobattoRule(nodes, running[-1].copy(), running)
