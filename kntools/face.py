"""The public names of `import kntools as kn`, each with its module."""

from kntools import __version__, analyses, data, plots
from kntools.attribution.attribution_result import Attribution
from kntools.attribution.baselines import activation, activation_x_gradient
from kntools.attribution.direct_logit import direct_logit_attribution
from kntools.attribution.faithfulness import faithfulness
from kntools.attribution.faithfulness_curve import FaithfulnessCurve
from kntools.attribution.integrated_gradients import integrated_gradients
from kntools.attribution.knowledge_neurons import KnowledgeNeurons, coarse_sets, knowledge_neurons, r1_squared
from kntools.attribution.neuron_card import neuron_card
from kntools.attribution.neuron_card_result import NeuronCard
from kntools.attribution.neuron_scan import NeuronScan, neuron_scan
from kntools.attribution.value_neurons import log_probability_increase, query_neurons
from kntools.editing.export import save_model
from kntools.editing.fine_tuning import fine_tune
from kntools.editing.joint_edit import JointEdit
from kntools.editing.joint_editing import alpha_edit, emmet, memit
from kntools.editing.rank_one import RankOneEdit
from kntools.editing.rome import rome
from kntools.editing.second_moment import SecondMoment, second_moment
from kntools.editing.value_edits import edit_values, erase_values
from kntools.editing.weight_edits import WeightEdit
from kntools.engine.generation import generate
from kntools.engine.sweep import Derivative, Intervention, RowGradients, sweep, sweep_gradients
from kntools.hooks.heads import ablate_heads, scale_heads
from kntools.hooks.neurons import (
    ablate_neurons,
    enhance_neurons,
    mean_ablate_neurons,
    resample_neurons,
    scale_neurons,
    set_neurons,
)
from kntools.hooks.states import add_vector, capture, corrupt, freeze, patch, scale_site
from kntools.metrics import kl_divergence, log_probability, logit_difference, probability
from kntools.models.load import load_model
from kntools.options import set_options
from kntools.patching.activation_patching import activation_patch, attribution_patch
from kntools.patching.patch_grid import PatchGrid
from kntools.patching.path_patching import path_patch
from kntools.prompts import Encoded, Prompt, encode
from kntools.results.result import Result, load
from kntools.sites import Hook, Neuron
from kntools.tracing.causal_tracing import causal_trace
from kntools.tracing.trace import Trace

__all__ = [
    "Attribution",
    "Derivative",
    "Encoded",
    "FaithfulnessCurve",
    "Hook",
    "Intervention",
    "JointEdit",
    "KnowledgeNeurons",
    "Neuron",
    "NeuronCard",
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
    "ablate_heads",
    "ablate_neurons",
    "activation",
    "activation_patch",
    "activation_x_gradient",
    "add_vector",
    "alpha_edit",
    "analyses",
    "attribution_patch",
    "capture",
    "causal_trace",
    "coarse_sets",
    "corrupt",
    "data",
    "direct_logit_attribution",
    "edit_values",
    "emmet",
    "encode",
    "enhance_neurons",
    "erase_values",
    "faithfulness",
    "fine_tune",
    "freeze",
    "generate",
    "integrated_gradients",
    "kl_divergence",
    "knowledge_neurons",
    "load",
    "load_model",
    "log_probability",
    "log_probability_increase",
    "logit_difference",
    "mean_ablate_neurons",
    "memit",
    "neuron_card",
    "neuron_scan",
    "patch",
    "path_patch",
    "plots",
    "probability",
    "query_neurons",
    "r1_squared",
    "resample_neurons",
    "rome",
    "save_model",
    "scale_heads",
    "scale_neurons",
    "scale_site",
    "second_moment",
    "set_neurons",
    "set_options",
    "sweep",
    "sweep_gradients",
]
