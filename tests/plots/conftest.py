"""Scores to draw."""

import pytest
import torch


@pytest.fixture
def scores() -> torch.Tensor:  # [prompt layer neuron]
    return 0.1 * torch.randn(3, 4, 50, generator=torch.Generator().manual_seed(0))
