"""An integral that checks itself: integrated gradients to a stated tolerance.

Along a line (see `kntools/path.py`) both a function and its derivative are known at every node: P(g) comes out of
the forward pass, dP/dg out of the backward pass. So on each piece [a, b] the polynomial through the derivatives is
integrated from a to every node and to b, and compared with P there. A piece that passes all of these checks is
complete, and not by accident: it would have to be wrong between any two nodes without changing P at the second.
One that fails is cut where it failed. Gauss-Radau nodes include the left end, so that the pieces that tile a line
know P at both of their ends without asking for more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from torch import Tensor

from kntools.attribution.integration_path import Paths, Points, Request
from kntools.attribution.quadrature import radau

# Nodes of a piece: at first, after a cut, and when a piece that nearly passed is tried again as a whole.
FIRST_NODES = 5
LATER_NODES = 6
MORE_NODES = 8
MOST_PIECES = 4  # of one cut; more at once are seldom all needed, and what fails again is cut again
NEARLY = 30.0  # a mismatch of up to so many times what is allowed; beyond that, a cut is what helps
# The first MLP feeds everything: along its line P leaps in every model seen, so its first pieces are smaller.
FIRST_LAYER_PIECES = (0.0, 0.0625, 0.25, 0.5, 1.0)
# When to stop: P that is noisy (bfloat16 weights) or leaps for good is not mended by ever finer pieces. The residual
# that is left is in the result.
MAX_ROUNDS = 12
MAX_NODES = 400
SHARE = 0.7  # of a line's tolerance that its pieces may use up, all together
INNER = 2.0  # how far a piece may be off between its ends, in shares
# A line that hardly changes P is held to the tolerance of this gap; for an answer that is never more probable than
# RARE, to a smaller one in proportion.
SMALL_GAP = 0.05
RARE = 0.2


@dataclass
class Piece:
    line: int
    a: float
    b: float
    nodes: int
    end: float | None = None  # P(b)


@dataclass
class Line:
    """The integral over one line so far."""

    prompt: int
    layer: int
    end: float = float("nan")  # P(1)
    start: float = float("nan")  # P(0)
    total: Tensor | None = None
    nodes: int = 0
    residual: float = 0.0  # of the pieces in `total`
    scale: float = 1.0  # how probable the answer gets at the ends of its prompt's lines

    def limit(self, tol: float) -> float:
        return tol * max(abs(self.end - self.start), SMALL_GAP * min(1.0, self.scale / RARE))

    def add(self, weighted: Tensor, mismatch: float) -> None:
        self.residual += mismatch
        self.total = weighted if self.total is None else self.total + weighted


def integrate(
    paths: Paths, lines: Sequence[Line], tol: float, on_done: Callable[[int], object] = lambda n: None
) -> None:
    """Fill in `total`, `start` and `nodes` of every line."""
    todo = [piece for i, line in enumerate(lines) for piece in _first_pieces(i, line)]
    for round_number in range(MAX_ROUNDS + 1):
        requests = [_request(lines[p.line], p) for p in todo]
        evaluated = list(zip(todo, paths.evaluate(requests), strict=True))
        if round_number == 0:
            _note_ends(paths, lines, evaluated)
        _close(lines, evaluated)
        todo = []
        open_lines = set()
        for piece, points in evaluated:
            line = lines[piece.line]
            line.nodes += piece.nodes
            limit = SHARE * line.limit(tol)
            mismatch = _mismatch(piece, points)
            worst = float(np.abs(mismatch).max())
            # What is wrong at the ends of the pieces adds up to the residual; what is wrong before tells of accidents.
            complete = abs(line.residual + mismatch[-1]) <= limit and worst <= INNER * limit
            if complete or round_number == MAX_ROUNDS or line.nodes > MAX_NODES:
                line.add(points.weighted, mismatch[-1])
                continue
            open_lines.add(piece.line)
            if worst <= NEARLY * limit and piece.nodes < MORE_NODES:
                todo.append(replace(piece, nodes=MORE_NODES))
            else:
                todo += _cut(piece, mismatch, limit)
        on_done(len(lines) - len(open_lines))
        if not todo:
            return


def _first_pieces(number: int, line: Line) -> list[Piece]:
    if line.layer > 0:
        return [Piece(number, 0.0, 1.0, FIRST_NODES)]
    return [Piece(number, a, b, LATER_NODES) for a, b in pairwise(FIRST_LAYER_PIECES)]


def _request(line: Line, piece: Piece) -> Request:
    rule, width = radau(piece.nodes), piece.b - piece.a
    return Request(line.prompt, line.layer, piece.a + width * rule.nodes, width * rule.weights)


def _note_ends(paths: Paths, lines: Sequence[Line], evaluated: list[tuple[Piece, Points]]) -> None:
    """P(0) and P(1) of each line, and how probable the answer of each prompt gets."""
    scale: dict[int, float] = {}
    for piece, points in evaluated:
        line = lines[piece.line]
        if piece.a == 0.0:
            line.start = float(points.values[0])
    for line in lines:
        if math.isnan(line.end):
            line.end = paths.clean_value(line.prompt)
        scale[line.prompt] = max(scale.get(line.prompt, 0.0), line.start, line.end)
    for line in lines:
        line.scale = scale[line.prompt]


def _close(lines: Sequence[Line], evaluated: list[tuple[Piece, Points]]) -> None:
    """P at the end of a piece is P at the start of the piece to its right."""
    starts = {(piece.line, piece.a): float(points.values[0]) for piece, points in evaluated}
    for piece, _ in evaluated:
        if piece.b == 1.0:
            piece.end = lines[piece.line].end
        elif piece.end is None:
            piece.end = starts[(piece.line, piece.b)]


def _mismatch(piece: Piece, points: Points) -> np.ndarray:
    """How far the integrated derivative is from P: at each node but the first, and at the end."""
    rule = radau(piece.nodes)
    integrated = points.values[0] + (piece.b - piece.a) * (rule.running[1:] @ points.slopes)
    assert piece.end is not None
    return integrated - np.append(points.values[1:], piece.end)


def _cut(piece: Piece, mismatch: np.ndarray, limit: float) -> list[Piece]:
    """Pieces for the next round: the intervals between nodes where it went wrong on their own, the rest together."""
    width = piece.b - piece.a
    edges = piece.a + width * np.append(radau(piece.nodes).nodes, 1.0)
    wrong = np.abs(np.diff(np.concatenate([[0.0], mismatch])))
    bad = wrong > max(limit, 0.3 * wrong.max())
    inner = [edges[k] for k in range(1, len(edges) - 1) if bad[k - 1] or bad[k]]
    if len(inner) >= MOST_PIECES:
        step = (len(inner) + 1) / MOST_PIECES
        inner = [inner[round(step * k) - 1] for k in range(1, MOST_PIECES)]
    cuts = [piece.a, *inner, piece.b] if inner else [piece.a, (piece.a + piece.b) / 2, piece.b]
    pieces = [Piece(piece.line, a, b, LATER_NODES) for a, b in pairwise(cuts)]
    pieces[-1].end = piece.end
    return pieces
