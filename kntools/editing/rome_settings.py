"""The settings of rank-one edits, those that papers published, and which layer to begin with."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from kntools.arguments import decimal, instance, whole
from kntools.engine.inputs import check_choice
from kntools.models import adapter
from kntools.models.neuron_layers import layers_of

#: Put before the prompt, so that the key is the subject's and not the sentence's. Fixed: an edit is the same in every
#: run, and on every model. Short, of about equal length, and about nothing.
TEMPLATES = (
    "{}",
    "The weather was fine today. {}",
    "He asked me about it. {}",
    "We had dinner at home. {}",
    "This is what I know: {}",
    "They came back last year. {}",
    "She read the whole book. {}",
    "It was a long day. {}",
    "There is one more thing. {}",
    "My friend told me this: {}",
    "You can see it here. {}",
)

#: Which key stands in the divisor of the update: the mean over templates (r-ROME, Gupta et al. 2024), or that of the
#: bare prompt, as the released code has it. Where the two differ, the published edit does damage.
Key = Literal["consistent", "published"]

#: What the size of a change is measured by.
Scale = Literal["mlp", "residual"]


@dataclass(frozen=True)
class RomeSettings:
    """How a rank-one edit is made: equation 4 of Meng et al. 2022 and its optimisation.

    ```python
    kn.rome(model, prompt, " Rome", layer=5, settings=RomeSettings(steps=25, clamp=3))
    RomeSettings.for_model(model)        # the published ones, where there are any
    ```
    """

    steps: int = 20  # forward passes; the last one only measures
    lr: float = 0.5  # of Adam
    weight_decay: float = 0.5  # weight of |delta| / |v0|^2 in the loss
    clamp: float = 4.0  # the largest |delta|, in multiples of |v0|
    scale: Scale = "mlp"  # what |v0| is: the MLP's output, or the residual stream behind the layer (MEMIT)
    kl_weight: float = 0.0625  # weight of KL(edited || original) after "{subject} is a"
    stop_loss: float = 0.05  # stop early below this loss
    key: Key = "consistent"
    #: Texts with one `{}` at their end; `None`: the shipped `TEMPLATES`; a number: so many that the model writes.
    templates: Sequence[str] | int | None = None
    seed: int = 0  # of templates that the model writes

    def __post_init__(self) -> None:
        checked = {
            "steps": whole("steps", self.steps, least=2),
            "seed": whole("seed", self.seed),
            "stop_loss": decimal("stop_loss", self.stop_loss),
            **{name: decimal(name, getattr(self, name), above=0) for name in ("lr", "clamp")},
            **{name: decimal(name, getattr(self, name), least=0) for name in ("weight_decay", "kl_weight")},
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        check_choice("key", self.key, get_args(Key))
        check_choice("scale", self.scale, get_args(Scale))
        if self.templates is not None:
            object.__setattr__(self, "templates", _checked(self.templates))

    @classmethod
    def for_model(cls, model: Any) -> "RomeSettings":
        """The published settings of this model (Meng et al. 2022; Llama-2: EasyEdit), or the defaults."""
        return _published(model)[1]


def chosen_settings(model: Any, given: RomeSettings | None) -> RomeSettings:
    example = "RomeSettings(steps=25)"
    return RomeSettings.for_model(model) if given is None else instance("settings", given, RomeSettings, example)


def layer_for(model: Any) -> int:
    """The layer that papers edited in this model; where there is none, one near `DEPTH`, as a place to begin.

    ```python
    kn.rome(model, prompt, " Rome", layer=layer_for(model))
    ```

    `kntools.analyses.layer_choice` measures which layer is best.
    """
    if (published := _published(model)[0]) is not None:
        return published
    depth = round(DEPTH * adapter.n_layers(model))
    return min(layers_of(model, "mlp.hook_post"), key=lambda layer: abs(layer - depth))


#: Where in the model, from 0 to 1, to edit one for which nothing is published: see docs/editing.md.
DEPTH = 0.17

# Model name -> the edited layer, the settings, and MEMIT's lambda (Meng et al. 2023).
_PUBLISHED: dict[str, tuple[int | None, RomeSettings, float | None]] = {
    "gpt2-medium": (8, RomeSettings(clamp=3.0), None),
    "gpt2-large": (12, RomeSettings(), None),
    "gpt2-xl": (17, RomeSettings(), 20_000.0),
    "gpt-j-6b": (5, RomeSettings(), 15_000.0),
    "llama-2-7b-hf": (5, RomeSettings(steps=25, weight_decay=1e-3), None),
}

#: The values of MEMIT (Meng et al. 2023): sizes are measured by the residual stream.
MEMIT = RomeSettings(clamp=0.75, scale="residual")


def published_lambda(model: Any) -> float | None:
    return _published(model)[2]


def _published(model: Any) -> tuple[int | None, RomeSettings, float | None]:
    name = adapter.model_name(model).lower().rstrip("/").rsplit("/", 1)[-1]
    return _PUBLISHED.get(name, (None, RomeSettings(), None))


def _checked(templates: Sequence[str] | int) -> tuple[str, ...] | int:
    if not isinstance(templates, Sequence):
        return whole("templates", templates, least=1)
    if isinstance(templates, str) or not templates:
        raise ValueError("templates must be a list of strings with one {} each, e.g. ['{}', 'It is well known. {}']")
    for template in templates:
        if template.count("{}") != 1:
            raise ValueError(f"the template {template!r} has {template.count('{}')} places {{}}; it needs exactly one")
        if not template.endswith("{}"):
            raise ValueError(f"the template {template!r} continues after its {{}}; the answer must follow the prompt")
    return tuple(templates)
