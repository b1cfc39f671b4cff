"""An integral that checks itself: integrated gradients to a stated tolerance.

Along a line (`integration_path.py`) both a function and its derivative are known at every node: m(g) comes out of
the forward pass, dm/dg out of the backward pass. So on each piece [a, b] the polynomial through the derivatives is
integrated from a to every node and to b, and compared with m there. A piece that passes all of these checks is
complete, and not by accident: it would have to be wrong between any two nodes without changing m at the second.
One that fails is cut where it failed. Gauss-Lobatto nodes include both ends: a piece shares them with its neighbours
and with what it was cut from, and at g = 1 one backward pass serves all layers. The tolerance does not depend on the
metric's unit: a rescaled metric is integrated at the same nodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from kntools.attribution.integration_path import Line, Paths
from kntools.attribution.quadrature import LobattoRule, lobatto

# Nodes of a piece: at first, after a cut, and when a piece that nearly passed is tried again as a whole.
FIRST_NODES = 5
LATER_NODES = 6
MORE_NODES = 8
MOST_PIECES = 4  # of one cut; more at once are seldom all needed, and what fails again is cut again
NEARLY = 30.0  # a mismatch of up to so many times what is allowed; beyond that, a cut is what helps
# The first MLP feeds everything: along its line P leaps in every model seen, so its first pieces are smaller.
FIRST_LAYER_PIECES = (0.0, 0.0625, 0.25, 0.5, 1.0)
# When to stop: a metric that leaps for good is not mended by ever finer pieces. The residual that is left is in the
# result.
MAX_ROUNDS = 12
MAX_NODES = 400
SHARE = 0.7  # of a line's tolerance that its pieces may use up, all together
# A line that hardly changes the metric is held to the tolerance of this share of the largest gap of its prompt.
SMALL_GAP = 0.02
# No residual can be below what rounding makes of it: a few roundings of the metric itself, and in half precision so
# much more that it is measured. Such a line is given up sooner.
ROUNDINGS = 32 * float(np.finfo(np.float32).eps)
HALF = 1e-4
MAX_NODES_HALF = 100


@dataclass
class Piece:
    line: Line
    a: float
    b: float
    size: int  # number of nodes

    @property
    def rule(self) -> LobattoRule:
        return lobatto(self.size)

    @property
    def nodes(self) -> list[float]:
        inner = self.a + (self.b - self.a) * self.rule.nodes[1:-1]
        return [self.a, *inner.tolist(), self.b]


def integrate_adaptively(paths: Paths, tol: float) -> list[Line]:
    """All lines, each in as many pieces as it takes."""
    lines = paths.lines()
    todo = [piece for line in lines for piece in _first_pieces(line)]
    most = MAX_NODES if paths.precision < HALF else MAX_NODES_HALF
    for round_number in range(MAX_ROUNDS + 1):
        _evaluate(paths, todo)
        if round_number == 0:
            _note_starts_and_floors(paths, todo)
            _allow(lines, tol)
        smaller: list[Piece] = []
        for piece in todo:
            line, mismatch = piece.line, _mismatch(piece)
            if _is_complete(line, mismatch) or round_number == MAX_ROUNDS or line.nodes > most:
                line.scores = line.scores + line.integral(piece.nodes, (piece.b - piece.a) * piece.rule.weights)
                line.residual += mismatch[-1]
            elif np.abs(mismatch).max() <= NEARLY * line.allowed and piece.size < MORE_NODES:
                smaller.append(replace(piece, size=MORE_NODES))
            else:
                smaller += _cut(piece, mismatch)
        if not smaller:
            break
        todo = smaller
    return lines


def _first_pieces(line: Line) -> list[Piece]:
    if line.layer > 0:
        return [Piece(line, 0.0, 1.0, FIRST_NODES)]
    return [Piece(line, a, b, LATER_NODES) for a, b in pairwise(FIRST_LAYER_PIECES)]


def _evaluate(paths: Paths, pieces: Sequence[Piece], factor: float = 1.0) -> None:
    asked: dict[Line, list[float]] = {}
    for piece in pieces:
        asked.setdefault(piece.line, []).extend(factor * g for g in piece.nodes)
    paths.evaluate(asked)


def _note_starts_and_floors(paths: Paths, pieces: Sequence[Piece]) -> None:
    """m(0), and what rounding alone makes of a mismatch: in half precision two evaluations tell, a rounding apart."""
    for line in {piece.line for piece in pieces}:
        line.start = line.points[0.0].value
        line.floor = ROUNDINGS * max(abs(point.value) for point in line.points.values())
    if paths.precision < HALF:
        return
    factor = 1 - paths.precision
    _evaluate(paths, pieces, factor)
    for piece in pieces:
        apart = np.abs(_mismatch(piece) - _mismatch(piece, factor)).max()
        piece.line.floor = max(piece.line.floor, 2 * float(apart))


def _allow(lines: Sequence[Line], tol: float) -> None:
    """How far off each line may be: relative to its gap and those of its prompt, but not below the rounding floor."""
    largest: dict[int, float] = {}
    for line in lines:
        largest[line.prompt] = max(largest.get(line.prompt, 0.0), abs(line.end - line.start))
    for line in lines:
        smallest = SMALL_GAP * largest[line.prompt]
        line.allowed = max(SHARE * tol * max(abs(line.end - line.start), smallest), line.floor)


def _mismatch(piece: Piece, factor: float = 1.0) -> Float[np.ndarray, " node"]:
    """How far the integrated derivative is from m, at each node but the first."""
    points = [piece.line.points[factor * g] for g in piece.nodes]
    values, slopes = (np.array([getattr(point, name) for point in points]) for name in ("value", "slope"))
    return values[0] + (piece.b - piece.a) * (piece.rule.running[1:] @ slopes) - values[1:]


def _is_complete(line: Line, mismatch: Float[np.ndarray, " node"]) -> bool:
    # What is wrong at the ends of the pieces adds up to the residual; what is wrong before tells of accidents, or of
    # rounding, which may be worse at one of many nodes.
    at_end = abs(line.residual + mismatch[-1]) <= line.allowed
    return bool(at_end and np.abs(mismatch).max() <= max(line.allowed, 2 * line.floor))


def _cut(piece: Piece, mismatch: Float[np.ndarray, " node"]) -> list[Piece]:
    """Pieces for the next round: the intervals between nodes where it went wrong on their own, the rest together."""
    edges = piece.nodes
    wrong = np.abs(np.diff(np.concatenate([[0.0], mismatch])))
    bad = wrong > max(piece.line.allowed, 0.3 * wrong.max())
    inner = [edges[k] for k in range(1, len(edges) - 1) if bad[k - 1] or bad[k]]
    if len(inner) >= MOST_PIECES:
        step = (len(inner) + 1) / MOST_PIECES
        inner = [inner[round(step * k) - 1] for k in range(1, MOST_PIECES)]
    cuts = [piece.a, *inner, piece.b] if inner else [piece.a, (piece.a + piece.b) / 2, piece.b]
    return [Piece(piece.line, a, b, LATER_NODES) for a, b in pairwise(cuts)]
