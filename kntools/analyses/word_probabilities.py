"""The probabilities of many words in the place of an answer, or of an answer after each of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from kntools.engine.answers import Edit, answer_probabilities
from kntools.engine.sweep import Intervention, sweep
from kntools.models import adapter
from kntools.prompts import Prompt, answer_ids, by_length, encode
from kntools.sites import Neuron, as_neurons

#: Where a word goes in the text of a prompt that asks what comes after it: `"Carl cures {}"` -> `" horses"`.
SLOT = "{}"


def checked_neurons(model: Any, neurons: Iterable[Neuron | tuple[int, int]]) -> tuple[Neuron, ...]:
    """The neurons, if this model has them."""
    wanted = as_neurons(neurons)
    if not wanted:
        raise ValueError("no neurons given; pass at least one, e.g. result.leading('plural')")
    layers, width = adapter.n_layers(model), adapter.d_mlp(model)
    foreign = [n for n in wanted if n.layer >= layers or n.index >= width]
    if foreign:
        raise ValueError(
            f"{foreign} are neurons of another model: {adapter.model_name(model)} has {layers} layers of {width}"
        )
    return wanted


def check_words(model: Any, prompts: Sequence[Prompt], words: Sequence[str]) -> None:
    """Words that stand in the place of an answer must be one token each; an error names those that are not."""
    asked = next((p for p in prompts if SLOT not in p.text), None)
    if asked is not None:
        _word_ids(model, asked, words)


def _word_ids(model: Any, prompt: Prompt, words: Sequence[str]) -> list[int]:
    found, problems = [], []
    for word in words:
        try:
            found.append(answer_ids(model, prompt.text, word)[0])
        except ValueError as error:
            problems.append(str(error).split(";")[0])
    if problems:
        raise ValueError(
            f"{'; '.join(problems)}: leave these words out of the list, this model has no one token for them"
        )
    return found


def word_probabilities(
    model: Any,
    prompts: Sequence[Prompt],
    words: Sequence[str],
    edits: Sequence[Edit],
    *,
    prepend_bos: bool | None = None,
    max_rows: int | None = None,
) -> Float[Tensor, "edit prompt word"]:
    """The probability of every word in the place of every prompt's answer, under every edit.

    ```python
    off = functools.partial(kn.ablate_neurons, neurons)
    before, after = word_probabilities(model, prompts, ["these", "this"], [untouched, off])
    ```

    Arguments:
        prompts: their answers play no part but to say where they stand. A text with a `{}` is asked otherwise: every
            word is put there, and the value is the probability of the prompt's own answer after it.
        edits: functions that make hooks when called with `pos=`, the position(s) of the answer, as in
            `kntools.engine.answers`.

    Raises:
        ValueError: no prompts, words or edits; a word that is not one token where the answer stands; prompts with and
            without a slot together.
    """
    if not prompts or not words or not edits:
        raise ValueError(
            f"{len(prompts)} prompts, {len(words)} words, {len(edits)} edits; at least one of each is needed"
        )
    slots = [SLOT in p.text for p in prompts]
    if all(slots):
        asked = [replace(p, text=p.text.replace(SLOT, word)) for p in prompts for word in words]
        values = answer_probabilities(model, asked, edits, prepend_bos=prepend_bos, max_rows=max_rows)
        return rearrange(values, "edit (prompt word) -> edit prompt word", word=len(words))
    if any(slots):
        raise ValueError(f"{sum(slots)} of {len(slots)} prompts have a slot {SLOT}; give all of them one, or none")
    encoded = [encode(model, p, prepend_bos, multi_token="first") for p in prompts]
    ids = torch.tensor([_word_ids(model, p, words) for p in prompts])
    found = torch.empty(len(edits), len(prompts), len(words))
    for group in by_length(encoded):
        part = [encoded[i] for i in group]
        runs = [Intervention(tuple(edit(pos=e.positions)), prompt=p) for edit in edits for p, e in enumerate(part)]
        logits = sweep(
            model, torch.cat([e.tokens for e in part]), runs, pos=[list(e.positions) for e in part], max_rows=max_rows
        )  # fmt: skip
        p = rearrange(logits[:, 0].float().cpu().softmax(-1), "(edit prompt) v -> edit prompt v", edit=len(edits))
        found[:, group] = p.gather(-1, ids[group].expand(len(edits), -1, -1))
    return found
