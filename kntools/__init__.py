"""kntools: composable hook functions over TransformerLens for knowledge-neuron research.

| | |
| --- | --- |
| models and prompts | `load_model`, `Prompt`, `encode`, `Encoded`, `set_options` |
| attribution | `integrated_gradients`, `activation_x_gradient`, `activation`, `direct_logit_attribution`, `log_probability_increase`, `query_neurons` -> `Attribution` |
| knowledge neurons | `knowledge_neurons` -> `KnowledgeNeurons`; `coarse_sets`, `r1_squared`; `neuron_scan` -> `NeuronScan`; `neuron_card` -> `NeuronCard`; `faithfulness` -> `FaithfulnessCurve` |
| patching | `activation_patch`, `attribution_patch`, `path_patch` -> `PatchGrid` |
| tracing | `causal_trace` -> `Trace` |
| editing | `rome` -> `RankOneEdit`; `emmet`, `memit`, `alpha_edit` -> `JointEdit`; `edit_values`, `erase_values`, `fine_tune` -> `WeightEdit`; `second_moment` -> `SecondMoment`; `save_model` |
| hooks on neurons | `scale_neurons`, `ablate_neurons`, `enhance_neurons`, `set_neurons`, `mean_ablate_neurons`, `resample_neurons`; `Neuron`, `Hook` |
| hooks on heads and sites | `scale_heads`, `ablate_heads`; `scale_site`, `add_vector`, `patch`, `freeze`, `corrupt`, `capture` |
| running them | `sweep`, `sweep_gradients`, `Intervention`, `RowGradients`, `Derivative`; `generate` |
| metrics | `probability`, `log_probability`, `logit_difference`, `kl_divergence` |
| results | `Result`, `load` |
| folders | `data`, `analyses`, `plots` |
"""  # noqa: E501 - a table

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kntools.face import *  # noqa: F403

try:
    __version__ = version("kntools")
except PackageNotFoundError:  # run from a checkout that was not installed
    __version__ = "0.0.0"


def __getattr__(name: str) -> Any:
    """A name of `kntools.face`, or a module. The first one imports PyTorch: `kntools -h` needs neither."""
    if name == "__all__":
        names = [*(n for n in vars(import_module("kntools.face")) if not n.startswith("_")), "__version__"]
        return sorted(names, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    if not name.startswith("_"):
        if find_spec(f"kntools.{name}") is not None:
            return import_module(f"kntools.{name}")
        if name in (shown := __getattr__("__all__")):
            return globals().setdefault(name, getattr(import_module("kntools.face"), name))
        near = import_module("kntools.models.names").nearest(name, shown, 2)
        if near:
            raise AttributeError(f"module 'kntools' has no attribute {name!r}; did you mean {' or '.join(near)}?")
    raise AttributeError(f"module 'kntools' has no attribute {name!r}; dir(kntools) lists the public names")


def __dir__() -> list[str]:
    """What autocompletion offers: the public names, without the modules that they come from."""
    return [*__getattr__("__all__"), *(name for name in globals() if name.startswith("__") and name != "__version__")]
