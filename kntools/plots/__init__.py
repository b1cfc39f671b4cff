"""Figures of tables, tensors and results. Every function returns a plotly `Figure` and shows nothing.

All take `title`, `width` and `height` (pixels), and heatmaps `colorscale` (any of plotly's). What cannot be drawn
(labels that do not fit, nan or inf, a prompt or neuron that does not exist) is a `ValueError` or `IndexError`.
"""

from kntools.plots.card_view import with_cards
from kntools.plots.charts import bar_chart, line_chart, scatter_chart
from kntools.plots.heatmaps import heatmap
from kntools.plots.neurons import layer_histogram, neuron_bars, neuron_heatmap
from kntools.plots.scatters import against_random, scan_scatter, score_scatter
from kntools.plots.theme import DARK, LIGHT
from kntools.plots.tokens import patch_heatmap, role_lines, trace_heatmap, trace_panels

__all__ = [
    "DARK",
    "LIGHT",
    "against_random",
    "bar_chart",
    "heatmap",
    "layer_histogram",
    "line_chart",
    "neuron_bars",
    "neuron_heatmap",
    "patch_heatmap",
    "role_lines",
    "scan_scatter",
    "scatter_chart",
    "score_scatter",
    "trace_heatmap",
    "trace_panels",
    "with_cards",
]


def __dir__() -> list[str]:
    """What autocompletion offers: the public names, without the modules that they come from."""
    return __all__
