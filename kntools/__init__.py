"""kntools: composable hook functions over TransformerLens for knowledge-neuron research."""

from importlib.metadata import PackageNotFoundError, version

from kntools import data, plots
from kntools.attribution import activation, activation_x_gradient, integrated_gradients, mean_activations
from kntools.attribution_result import Attribution
from kntools.fine_tune import fine_tune
from kntools.hooks import (
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
from kntools.models import load_model
from kntools.neuron_scan import NeuronScan, neuron_scan
from kntools.neurons import KnowledgeNeurons, coarse_sets, knowledge_neurons, r1_squared
from kntools.noise import subject_sigma
from kntools.patch_grid import PatchGrid
from kntools.patching import activation_patch, attribution_patch
from kntools.prompts import Encoded, Prompt, encode
from kntools.rank_one import RankOneEdit
from kntools.rome import rome, rome_each
from kntools.sampling import generate, sample_templates, sample_texts
from kntools.second_moment import SecondMoment, second_moment
from kntools.sites import Hook, Neuron
from kntools.sweep import Derivative, Intervention, RowGradients, sweep, sweep_gradients
from kntools.trace_result import Trace
from kntools.tracing import causal_trace
from kntools.value_edits import edit_values, erase_values, relation_neurons
from kntools.weight_edits import WeightEdit

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
