"""Rank-one model editing (Meng et al. 2022, "Locating and Editing Factual Associations in GPT")."""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, SupportsIndex, overload

from kntools.arguments import instance
from kntools.editing.rank_one import RankOneEdit
from kntools.editing.requests import make_requests, make_rows, new_targets
from kntools.editing.rome_settings import RomeSettings, chosen_settings
from kntools.editing.rome_value import find_values
from kntools.editing.second_moment import SecondMoment
from kntools.engine.answers import answer_values
from kntools.models import adapter, neuron_layers
from kntools.prompts import PromptLike, Prompts
from kntools.results.provenance import provenance


@overload
def rome(model: Any, prompts: PromptLike, targets: str, **options: Any) -> RankOneEdit: ...
@overload
def rome(model: Any, prompts: Sequence[PromptLike], targets: Sequence[str], **options: Any) -> list[RankOneEdit]: ...
def rome(  # type: ignore[misc] # the signatures above only tell one edit from several
    model: Any,
    prompts: Prompts,
    targets: str | Sequence[str],
    *,
    layer: SupportsIndex,
    second_moment: SecondMoment | None = None,
    settings: RomeSettings | None = None,
) -> RankOneEdit | list[RankOneEdit]:
    """Edit the answers of `prompts` to `targets`, each by a rank-one change of one layer's `W_out`.

    ```python
    prompt = kn.Prompt("The capital of Canada is", " Ottawa", subject="Canada")
    edit = kn.rome(model, prompt, " Rome", layer=8, second_moment=C)
    with edit.applied(model):
        ...                                  # "The capital of Canada is" -> " Rome"
    ```

    The key k is the mean, over templates, of the neurons at the subject's last token; the value v is what the MLP
    gives there, plus `delta`, found by Adam on `-log P(target)` (mean over templates) `+ kl_weight * KL(edited ||
    original)` after "{subject} is a", read at the subject, `+ weight_decay * |delta| / |v0|^2` (equation 4). Then
    `u = C^-1 k` and `W_out += outer(u, v - k W_out - b_out) / (k . u)` (equation 2). Diagnostics that say that an edit
    will hurt are warned of.

    Arguments:
        prompts: with their subjects; one, or several (a list of edits, in half the time). Each edit is made on the
            unedited model.
        targets: the new answer of each, as it follows the prompt (`" Rome"`). The pieces of a longer one are
            teacher-forced, their log-probabilities add up.
        layer: the layer to edit; see `kntools.editing.rome_settings.layer_for`, and `kntools.analyses.layer_choice`.
        second_moment: C, as `kn.second_moment` returns it. `None` is C = I: other keys are not protected.
        settings: `None` takes `RomeSettings.for_model(model)`.

    Raises:
        ValueError: a masked model; no subject, or one that is not in the text; a target that is the current answer;
            a `second_moment` of other weights or another layer, or one that is singular; a layer without neurons.
        IndexError: no such layer.
        FloatingPointError: nan or inf in the optimisation.
        RuntimeError: within `torch.inference_mode()`.
    """
    number = adapter.check_layer(model, layer)
    chosen = chosen_settings(model, settings)
    requests = make_requests(model, prompts, targets, "rome")
    neuron_layers.width(model, number)
    if second_moment is not None:
        instance("second_moment", second_moment, SecondMoment, "kn.second_moment(model, layer, texts)")
        second_moment.check(model, number)
    rows = make_rows(model, requests, chosen)
    before = new_targets(model, rows)
    used = {"second_moment": second_moment and second_moment.identity(), "prepend_bos": rows[0].bare.prepend_bos}
    about = provenance(model, **asdict(chosen), **used)
    values = find_values(model, rows, number, chosen)
    w, b = adapter.w_out(model, number).detach().float(), adapter.b_out(model, number)
    edits = []
    for request, own, value, p in zip(requests, rows, values, before, strict=True):
        mean, bare = own.mean_of(value.keys), value.keys[0]
        # Equation 2.
        u, ridge = (mean, None) if second_moment is None else second_moment.solve(mean)
        u = u / u.norm()
        k = mean if chosen.key == "consistent" else bare
        output = k @ w + (0.0 if b is None else b.detach().float())
        edit = RankOneEdit(
            left=u.cpu(),
            right=(value.delta / (k @ u)).cpu(),
            layer=number,
            key=mean.cpu(),
            prompt_key=bare.cpu(),
            value=(output + value.delta).cpu(),
            steps=value.steps,
            weight_norm=float(w.norm()),
            before=p,
            after=0.0,
            ridge=ridge,
            prompt=request.prompt,
            target=request.target,
            provenance={**about, "settings": {**about["settings"], "templates": list(own.templates)}},
        )
        # Tried out as hooks: the weights stay as they are.
        edits.append(replace(edit, after=float(answer_values(model, own.bare, [edit.hooks(model)]))))
    titles = {text: edit.title() for edit in reversed(edits) for text in edit.warnings()}
    for text, title in titles.items():  # what is true of several edits is said once
        warnings.warn(f"{title}: {text}", stacklevel=2)
    return edits[0] if isinstance(targets, str) else edits
