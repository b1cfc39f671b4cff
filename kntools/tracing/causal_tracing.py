"""Causal tracing: which states of the clean run bring the answer back after its subject was corrupted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor

from kntools.engine.answers import answer_metric
from kntools.engine.inputs import check_count
from kntools.engine.sweep import Intervention, Metric, sweep
from kntools.hooks.states import capture
from kntools.metrics import logit_difference
from kntools.models.causality import is_causal
from kntools.options import progress_bar
from kntools.prompts import Encoded, Prompt, PromptLike, Prompts, encode_many
from kntools.results.provenance import provenance
from kntools.sites import Hook
from kntools.tracing.noise import Noise, make_noise, subject_embeddings, subject_of
from kntools.tracing.restoration import Kind, Restoration, SeverAt, Severed, make_restoration
from kntools.tracing.trace import Trace
from kntools.tracing.weak_corruption import warn_of_weak_corruption


@overload
def causal_trace(model: Any, prompts: PromptLike, **options: Any) -> Trace: ...
@overload
def causal_trace(model: Any, prompts: Sequence[PromptLike], **options: Any) -> list[Trace]: ...
def causal_trace(  # type: ignore[misc] # the signatures above only tell one trace from several
    model: Any,
    prompts: Prompts,
    *,
    kind: Kind = "hidden",
    window: int | None = None,
    noise: Noise = "3sigma",
    samples: int = 10,
    sever: Severed | None = None,
    sever_at: SeverAt = "restored",
    seed: int = 0,
    two_way: bool = False,
) -> Trace | list[Trace]:
    """Indirect effect of every state on the answer (Meng et al. 2022, section 2.1).

    ```python
    prompt = kn.Prompt("The Colosseum is located in the city of", " Rome", subject="The Colosseum")
    trace = kn.causal_trace(model, prompt)
    trace.scores           # [layer token]: probability of " Rome" with that state restored
    trace.effect           # the same minus the corrupted probability
    ```

    Three kinds of runs: the clean one; corrupted ones, with noise on the embeddings of the subject; and for every
    layer and token the corrupted ones again, with the state of the clean run put back there. All cells have the same
    noise.

    Arguments:
        prompts: a prompt with a subject, or several. For a masked model the answer is read at the mask.
        kind: `"hidden"` restores the output of one block; `"mlp"` and `"attn"` what the MLPs or attentions of several
            layers add to the residual stream.
        window: how many layers `"mlp"` and `"attn"` restore together: `[l - window // 2, l - window // 2 + window)`,
            clipped to the model (an even window has one more layer below than above). `None` is 10 layers, or all
            of a smaller model.
        noise: `"3sigma"` is Gaussian noise with 3 times the standard deviation of this subject's own embeddings (for
            that of a data set, 3 times `kntools.tracing.noise.subject_sigma(model, prompts)`); a number is its
            standard deviation; a tensor `[sample subject d_model]` is the noise itself, and then the result depends
            on nothing else.
        samples: how many samples of noise; the probability is averaged over them. A tensor brings its own.
        sever: hold the outputs of all `"mlp"` or `"attn"` above the restored state at their values in the corrupted
            run, sample by sample: what is left is the effect that does not pass through them.
        sever_at: at the `"restored"` token (as published), or at `"all"` tokens.
        seed: of the noise. The global random state is not used.
        two_way: read the answer's probability against the prompt's foil alone, P(target) / (P(target) + P(foil)): for
            agreement, where the right noun is one of thousands.

    Returns:
        `Trace`, on the CPU; of several prompts, a list of them. A warning says where the noise does not lower the
        answer's probability: then there is nothing to restore.

    Raises:
        TypeError, ValueError: no subject, a window that does not fit the model, noise of the wrong shape or below
            zero, an unknown kind.
        FloatingPointError: activations that are nan or inf.
    """
    check_count("samples", samples)
    restoration = make_restoration(model, kind, window, sever, sever_at)
    encoded = encode_many(model, prompts)
    traces = []
    with progress_bar(len(encoded), "prompt") as bar:
        for e in encoded:
            subject = subject_embeddings(model, e)
            added = make_noise(subject.embeddings, noise, samples, seed)
            about = provenance(
                model,
                noise="given" if isinstance(noise, Tensor) else noise,
                samples=added.shape[0],
                seed=None if isinstance(noise, Tensor) else seed,
                prepend_bos=e.prepend_bos,
            )
            metric = _against_foil(e) if two_way else answer_metric(e)
            clean, corrupted, restored = _run(e, [subject.add(sample) for sample in added], metric, restoration)
            traces.append(
                Trace(
                    per_sample=restored,
                    corrupted_per_sample=corrupted,
                    noise=added,
                    noise_at=subject.place,
                    clean=clean,
                    tokens=e.str_tokens,
                    subject=subject.positions,
                    answer=e.position,
                    kind=kind,
                    window=restoration.window,
                    sever=sever,
                    sever_at=sever_at,
                    two_way=two_way,
                    prompt=e.prompt,
                    provenance=about,
                )
            )
            bar.update()
    warn_of_weak_corruption(*zip(*((t.prompt.text, t.clean, t.corrupted) for t in traces), strict=True))
    return traces[0] if isinstance(prompts, Prompt | Encoded) else traces


def _run(
    encoded: Encoded, embedding: list[list[Hook]], metric: Metric, restoration: Restoration
) -> tuple[float, Float[Tensor, " sample"], Float[Tensor, "sample layer token"]]:
    """The metric of the clean run, of the corrupted ones, and of the corrupted ones with each state restored."""
    model, layers, length = restoration.model, restoration.layers, encoded.tokens.shape[1]
    clean_states: dict[str, Tensor] = {}
    clean = sweep(model, encoded, [capture(clean_states, [restoration.site], layers)], metric=metric)

    samples = [encoded] * len(embedding)
    held: list[dict[str, Tensor]] = [{} for _ in samples]
    watched = [Intervention(capture(held[s], restoration.severed_sites, layers), prompt=s) for s in range(len(samples))]
    corrupted = sweep(model, samples, watched, metric=metric, embedding=embedding).float().cpu()

    # In a causal model, the noise changes no state before the subject.
    first = subject_of(encoded)[0] if is_causal(model) else 0
    cells = [(layer, token) for token in range(first, length) for layer in layers]
    runs = [
        Intervention(restoration.hooks(clean_states, held[s], *cell, length), prompt=s)
        for cell in cells
        for s in range(len(samples))
    ]
    found = sweep(model, samples, runs, metric=metric, embedding=embedding).float().cpu()
    restored = corrupted[:, None, None].repeat(1, len(layers), length)
    rows, columns = torch.tensor(cells).T
    restored[:, rows, columns] = found.view(len(cells), len(samples)).T
    return float(clean), corrupted, restored


def _against_foil(encoded: Encoded) -> Metric:
    if encoded.foil_ids is None or len(encoded.target_ids) != 1:
        raise ValueError(
            "two_way=True compares one token with another: "
            "Prompt(..., foil='...'), and Prompt(..., multi_token='first') if needed"
        )
    difference = logit_difference(encoded.target_ids[0], encoded.foil_ids[0])
    return lambda logits: difference(logits).sigmoid()
