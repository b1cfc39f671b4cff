"""kntools: composable hook functions over TransformerLens for knowledge-neuron research."""

from importlib.metadata import PackageNotFoundError, version

from kntools import data, plots
from kntools.attribution.attribution_result import Attribution
from kntools.attribution.integrated_gradients import (
    activation,
    activation_x_gradient,
    integrated_gradients,
    mean_activations,
)
from kntools.attribution.knowledge_neurons import KnowledgeNeurons, coarse_sets, knowledge_neurons, r1_squared
from kntools.attribution.neuron_scan import NeuronScan, neuron_scan
from kntools.editing.fine_tuning import fine_tune
from kntools.editing.rank_one import RankOneEdit
from kntools.editing.rome import rome, rome_each
from kntools.editing.second_moment import SecondMoment, second_moment
from kntools.editing.value_edits import edit_values, erase_values, relation_neurons
from kntools.editing.weight_edits import WeightEdit
from kntools.engine.generation import generate, sample_templates, sample_texts
from kntools.engine.sweep import Derivative, Intervention, RowGradients, sweep, sweep_gradients
from kntools.hooks.interventions import (
    ablate_neurons,
    add_vector,
    capture,
    corrupt,
    enhance_neurons,
    freeze,
    mean_ablate_neurons,
    patch,
    scale_neurons,
    scale_site,
    set_neurons,
)
from kntools.metrics import kl_divergence, log_probability, logit_difference, probability
from kntools.models.load import load_model
from kntools.patching.activation_patching import activation_patch, attribution_patch
from kntools.patching.patch_grid import PatchGrid
from kntools.prompts import Encoded, Prompt, encode
from kntools.results.result import Result, load
from kntools.sites import Hook, Neuron
from kntools.tracing.causal_tracing import causal_trace
from kntools.tracing.noise import subject_sigma
from kntools.tracing.trace import Trace

try:
    __version__ = version("kntools")
except PackageNotFoundError:  # run from a checkout that was not installed
    __version__ = "0.0.0"

__all__ = [
    "Attribution",
    "Derivative",
    "Encoded",
    "Hook",
    "Intervention",
    "KnowledgeNeurons",
    "Neuron",
    "NeuronScan",
    "PatchGrid",
    "Prompt",
    "RankOneEdit",
    "Result",
    "RowGradients",
    "SecondMoment",
    "Trace",
    "WeightEdit",
    "__version__",
    "ablate_neurons",
    "activation",
    "activation_patch",
    "activation_x_gradient",
    "add_vector",
    "attribution_patch",
    "capture",
    "causal_trace",
    "coarse_sets",
    "corrupt",
    "data",
    "edit_values",
    "encode",
    "enhance_neurons",
    "erase_values",
    "fine_tune",
    "freeze",
    "generate",
    "integrated_gradients",
    "kl_divergence",
    "knowledge_neurons",
    "load",
    "load_model",
    "log_probability",
    "logit_difference",
    "mean_ablate_neurons",
    "mean_activations",
    "neuron_scan",
    "patch",
    "plots",
    "probability",
    "r1_squared",
    "relation_neurons",
    "rome",
    "rome_each",
    "sample_templates",
    "sample_texts",
    "scale_neurons",
    "scale_site",
    "second_moment",
    "set_neurons",
    "subject_sigma",
    "sweep",
    "sweep_gradients",
]


def __dir__() -> list[str]:
    """What autocompletion offers: the public names, without the modules that they come from."""
    return [*__all__, *(name for name in globals() if name.startswith("__") and name not in __all__)]
