"""Random numbers from a seed of the caller's. The global random state is never used."""

from random import Random
from typing import SupportsIndex

import torch

from kntools.arguments import whole


def generator(seed: SupportsIndex) -> torch.Generator:
    return torch.Generator().manual_seed(whole("seed", seed, -(2**63), 2**64 - 1))


def python_random(seed: SupportsIndex) -> Random:
    """The same for what is no tensor: sampling and shuffling lists."""
    return Random(whole("seed", seed))
