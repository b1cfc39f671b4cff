"""kntools: composable hook functions over TransformerLens for knowledge-neuron research.

| | |
| --- | --- |
| models and prompts | `load_model`, `Prompt`, `encode`, `Encoded`, `set_options` |
| attribution | `integrated_gradients`, `activation_x_gradient`, `activation` -> `Attribution` |
| knowledge neurons | `knowledge_neurons` -> `KnowledgeNeurons`; `coarse_sets`, `r1_squared`; `neuron_scan` -> `NeuronScan`; `neuron_card` -> `NeuronCard` |
| patching | `activation_patch`, `attribution_patch` -> `PatchGrid` |
| tracing | `causal_trace` -> `Trace` |
| editing | `rome` -> `RankOneEdit`; `emmet`, `memit`, `alpha_edit` -> `JointEdit`; `edit_values`, `erase_values`, `fine_tune` -> `WeightEdit`; `second_moment` -> `SecondMoment` |
| hooks on neurons | `scale_neurons`, `ablate_neurons`, `enhance_neurons`, `set_neurons`, `mean_ablate_neurons`, `resample_neurons`; `Neuron`, `Hook` |
| hooks on heads and sites | `scale_heads`, `ablate_heads`; `scale_site`, `add_vector`, `patch`, `freeze`, `corrupt`, `capture` |
| running them | `sweep`, `sweep_gradients`, `Intervention`, `RowGradients`, `Derivative`; `generate` |
| metrics | `probability`, `log_probability`, `logit_difference`, `kl_divergence` |
| results | `Result`, `load` |
| folders | `data`, `analyses`, `plots` |
"""  # noqa: E501 - a table

from importlib.metadata import PackageNotFoundError, version

from kntools import analyses, data, plots
from kntools.attribution.attribution_result import Attribution
from kntools.attribution.integrated_gradients import activation, activation_x_gradient, integrated_gradients
from kntools.attribution.knowledge_neurons import KnowledgeNeurons, coarse_sets, knowledge_neurons, r1_squared
from kntools.attribution.neuron_card import neuron_card
from kntools.attribution.neuron_card_result import NeuronCard
from kntools.attribution.neuron_scan import NeuronScan, neuron_scan
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
from kntools.prompts import Encoded, Prompt, encode
from kntools.results.result import Result, load
from kntools.sites import Hook, Neuron
from kntools.tracing.causal_tracing import causal_trace
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
    "edit_values",
    "emmet",
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
    "memit",
    "neuron_card",
    "neuron_scan",
    "patch",
    "plots",
    "probability",
    "r1_squared",
    "resample_neurons",
    "rome",
    "scale_heads",
    "scale_neurons",
    "scale_site",
    "second_moment",
    "set_neurons",
    "set_options",
    "sweep",
    "sweep_gradients",
]


def __dir__() -> list[str]:
    """What autocompletion offers: the public names, without the modules that they come from."""
    return [*__all__, *(name for name in globals() if name.startswith("__") and name not in __all__)]
