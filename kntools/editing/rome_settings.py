"""Published settings of rank-one edits, and which layer to begin with where there are none."""

from __future__ import annotations

from typing import Any

from kntools.models import adapter

#: Of the models that papers edited (Meng et al. 2022; Llama-2: EasyEdit): model name -> arguments of `kn.rome`.
PUBLISHED: dict[str, dict[str, Any]] = {
    "gpt2-medium": {"layer": 8, "steps": 20, "weight_decay": 0.5, "clamp": 3.0},
    "gpt2-large": {"layer": 12, "steps": 20, "weight_decay": 0.5, "clamp": 4.0},
    "gpt2-xl": {"layer": 17, "steps": 20, "weight_decay": 0.5, "clamp": 4.0},
    "gpt-j-6b": {"layer": 5, "steps": 20, "weight_decay": 0.5, "clamp": 4.0},
    "llama-2-7b-hf": {"layer": 5, "steps": 25, "weight_decay": 1e-3, "clamp": 4.0},
}

#: Where in the model, from 0 to 1, to edit one for which nothing is published: see docs/editing.md.
DEPTH = 0.17


def settings_for(model: Any) -> dict[str, Any]:
    """Arguments for `kn.rome`: the published ones of this model, or a layer at `DEPTH` and `rome`'s own defaults.

    ```python
    kn.rome(model, prompt, " Rome", **settings_for(model))
    ```

    The layer of a model without published settings is a place to begin: `kntools.analyses.layer_choice` measures.
    """
    name = adapter.model_name(model).lower().rstrip("/").rsplit("/", 1)[-1]
    if name in PUBLISHED:
        return dict(PUBLISHED[name])
    return {"layer": min(adapter.n_layers(model) - 1, round(DEPTH * adapter.n_layers(model)))}
