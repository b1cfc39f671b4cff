"""Figures of scores and of interventions. Every function returns a plotly `Figure` and shows nothing."""

from kntools.plots.bars import neuron_bars
from kntools.plots.heatmap import neuron_heatmap
from kntools.plots.histogram import layer_histogram
from kntools.plots.interventions import against_random, change_matrix
from kntools.plots.roles import role_lines, scan_scatter
from kntools.plots.theme import DARK, LIGHT
from kntools.plots.tracing import patch_heatmap, trace_heatmap, trace_panels

__all__ = [
    "DARK",
    "LIGHT",
    "against_random",
    "change_matrix",
    "layer_histogram",
    "neuron_bars",
    "neuron_heatmap",
    "patch_heatmap",
    "role_lines",
    "scan_scatter",
    "trace_heatmap",
    "trace_panels",
]
