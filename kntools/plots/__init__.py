"""Figures of tables, tensors and results. Every function returns a plotly `Figure` and shows nothing.

All take `title`, `width` and `height` (pixels), and heatmaps `colorscale` (any of plotly's). What cannot be drawn
(labels that do not fit, nan or inf, a prompt or neuron that does not exist) is a `ValueError` or `IndexError`.
"""

from kntools.models.names import public_names as _public_names
from kntools.plots.card_view import with_cards as with_cards
from kntools.plots.charts import bar_chart as bar_chart
from kntools.plots.charts import line_chart as line_chart
from kntools.plots.charts import scatter_chart as scatter_chart
from kntools.plots.comparison import score_scatter as score_scatter
from kntools.plots.effects import against_random as against_random
from kntools.plots.effects import role_lines as role_lines
from kntools.plots.effects import scan_scatter as scan_scatter
from kntools.plots.heatmaps import heatmap as heatmap
from kntools.plots.neurons import layer_histogram as layer_histogram
from kntools.plots.neurons import neuron_bars as neuron_bars
from kntools.plots.neurons import neuron_heatmap as neuron_heatmap
from kntools.plots.theme import DARK as DARK
from kntools.plots.theme import LIGHT as LIGHT
from kntools.plots.tokens import patch_heatmap as patch_heatmap
from kntools.plots.tokens import trace_heatmap as trace_heatmap
from kntools.plots.tokens import trace_panels as trace_panels

__all__ = _public_names(vars())
