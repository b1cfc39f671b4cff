"""What the tests themselves rely on, in a process of its own and as one of several workers."""

from __future__ import annotations

import os

import pytest
import torch
from jaxtyping import TypeCheckError

import kntools as kn
from kntools.options import options
from tests.shapes import ALIASES, has_shapes

WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))


def test_shapes_in_signatures_are_checked() -> None:
    with pytest.raises(TypeCheckError, match="reference"):
        kn.kl_divergence(torch.zeros(2, 3))
    with pytest.raises(TypeCheckError, match="knowledge_neurons"):  # an alias
        kn.knowledge_neurons(torch.zeros(2, 3))
    assert "Scores" in ALIASES and has_shapes(kn.Attribution) and not has_shapes(options)


def test_tiny_models_have_one_thread() -> None:
    assert torch.get_num_threads() == 1


def test_workers_share_the_cores() -> None:
    """Each, and what it starts, has its part of them: two times two threads on two cores are slower than two."""
    assert WORKERS == 1 or int(os.environ["OMP_NUM_THREADS"]) * WORKERS <= max(WORKERS, os.cpu_count() or 1)
