"""Figures of scores and of interventions. Every function returns a plotly `Figure` and shows nothing."""

from kntools.plots.bars import neuron_bars
from kntools.plots.heatmap import neuron_heatmap
from kntools.plots.histogram import layer_histogram
from kntools.plots.interventions import against_random, change_matrix
from kntools.plots.theme import DARK, LIGHT

__all__ = [
    "DARK",
    "LIGHT",
    "against_random",
    "change_matrix",
    "layer_histogram",
    "neuron_bars",
    "neuron_heatmap",
]
