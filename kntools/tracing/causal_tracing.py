"""Causal tracing: which states of the clean run bring the answer back after its subject was corrupted."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from jaxtyping import Float
from torch import Tensor

from kntools.arguments import whole, without_effect
from kntools.engine.metric_choice import RISING, Metrics, choose_metrics
from kntools.engine.prompt_pairs import Corrupted, Pair, encode_pairs
from kntools.engine.sweep import Intervention, sweep
from kntools.engine.values import Metric
from kntools.hooks.states import capture, corrupt
from kntools.options import progress_bar
from kntools.prompts import Encoded, Prompt, PromptLike, Prompts, encode_many
from kntools.results.provenance import provenance
from kntools.sites import Hook
from kntools.tracing.noise import Noise, make_noise, subject_embeddings
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
    corrupted: Corrupted | None = None,
    metric: Metrics = None,
    samples: int | None = None,
    sever: Severed | None = None,
    sever_at: SeverAt = "restored",
    seed: int = 0,
) -> Trace | list[Trace]:
    """Indirect effect of every state on the answer (Meng et al. 2022, section 2.1).

    ```python
    prompt = kn.Prompt("The Colosseum is located in the city of", " Rome", subject="The Colosseum")
    trace = kn.causal_trace(model, prompt)
    trace.scores           # [layer token]: probability of " Rome" with that state restored
    trace.effect           # the same minus the corrupted probability
    kn.causal_trace(model, prompt, corrupted="The Parthenon is located in the city of")      # instead of noise
    ```

    Three kinds of runs: the clean one; corrupted ones, with noise on the embeddings of the subject; and for every
    layer and token the corrupted ones again, with the state of the clean run put back there. All cells have the same
    noise. Several prompts give a list. A warning says where the corruption does not lower the metric.

    Arguments:
        prompts: a prompt with a subject, or several. For a masked model the answer is read at the mask.
        kind: `"hidden"` restores the output of one block; `"mlp"` and `"attn"` what the MLPs or attentions of several
            layers add to the residual stream.
        window: how many layers `"mlp"` and `"attn"` restore together: `[l - window // 2, l - window // 2 + window)`,
            clipped to the model. `None` is 10 layers, or all of a smaller model.
        noise: `"3sigma"` is Gaussian noise with 3 times the standard deviation of this subject's own embeddings (for
            that of a data set, 3 times `kntools.tracing.noise.subject_sigma(model, prompts)`); a number is its
            standard deviation; a tensor `[sample subject d_model]` is the noise itself.
        corrupted: instead of noise, another prompt (or text) of as many tokens (symmetric token replacement, Zhang &
            Nanda 2024), or as many as there are prompts. The answer is the clean one. Without a subject, the part
            that differs counts as one.
        metric: as in `activation_patch`; `None` is the probability. `"two_way"`, P(target) / (P(target) +
            P(foil)), is for agreement, where the right noun is one of thousands.
        samples: how many samples of noise (10, drawn with `seed`); the metric is averaged over them.
        sever: fix the outputs of all `"mlp"` or `"attn"` above the restored state at their values in the corrupted
            run, sample by sample: the remaining effect does not pass through them.
        sever_at: at the `"restored"` token (as published), or at `"all"` tokens.

    Raises:
        TypeError, ValueError: no subject, a window that does not fit the model, noise of the wrong shape or below
            zero, a corrupted prompt of other length, an unknown kind or metric.
        FloatingPointError: activations that are nan or inf.
    """
    if corrupted is not None or isinstance(noise, Tensor):
        without_effect("where no noise is drawn", samples=samples)
    restoration = make_restoration(model, kind, window, sever, sever_at)
    how: dict[str, Any] = {"noise": noise, "corrupted": corrupted, "metric": metric, "samples": samples, "seed": seed}
    traces = [trace for [trace] in trace_states(model, prompts, [restoration], **how)]
    named = [(t.prompt.text, t.clean, t.corrupted) for t in traces]
    warn_of_weak_corruption(named, rising=traces[0].metric in RISING)
    return traces[0] if isinstance(prompts, Prompt | Encoded) else traces


def trace_states(
    model: Any,
    prompts: Prompts,
    restorations: Sequence[Restoration],
    *,
    noise: Noise,
    corrupted: Corrupted | None = None,
    metric: Metrics = None,
    samples: int | None = None,
    seed: int = 0,
) -> list[list[Trace]]:
    """For each prompt, one trace per way to restore states; they share the clean and the corrupted runs."""
    samples, seed = whole("samples", 10 if samples is None else samples, least=1), whole("seed", seed)
    if corrupted is None:
        encoded = encode_many(model, prompts)
        corruptions = (_noisy(model, e, noise, samples, seed) for e in encoded)
    else:
        if isinstance(noise, Tensor) or noise != "3sigma":
            raise ValueError("noise and corrupted are two kinds of corruption; give one of them")
        pairs = encode_pairs(model, prompts, corrupted)
        encoded, corruptions = [pair.clean for pair in pairs], (_replaced(pair) for pair in pairs)
    metrics, name = choose_metrics(model, encoded, "probability" if metric is None else metric)
    asked, drawn = (noise, seed) if corrupted is None else (None, None)
    if isinstance(noise, Tensor):
        asked, drawn = "given", None
    traces = []
    with progress_bar(len(encoded), "prompt") as bar:
        for e, corruption, own in zip(encoded, corruptions, metrics, strict=True):
            about = provenance(model, noise=asked, samples=len(corruption.runs), seed=drawn, prepend_bos=e.prepend_bos)
            clean, broken, restored = _run(model, e, corruption, own, restorations)
            shared: dict[str, Any] = {
                "clean": clean,
                "corrupted_per_sample": broken,
                "noise": corruption.noise,
                "noise_at": corruption.noise_at,
                "corrupted_prompt": corruption.prompt,
                "metric": name,
                "tokens": e.str_tokens,
                "subject": corruption.subject,
                "answer": e.position,
                "prompt": e.prompt,
                "provenance": about,
            }
            traces.append(
                [
                    Trace(**shared, per_sample=found, kind=r.kind, window=r.window, sever=r.sever, sever_at=r.sever_at)
                    for r, found in zip(restorations, restored, strict=True)
                ]
            )
            bar.update()
    return traces


@dataclass(frozen=True)
class _Corruption:
    """The corrupted runs of one prompt, one per sample of noise."""

    runs: list[Encoded]
    embedding: list[list[Hook]] | None  # of each run, hooks that add its noise
    subject: range
    first: int  # the first position that is not as in the clean run
    noise: Float[Tensor, "sample subject d_model"] | None = None
    noise_at: str | None = None
    prompt: Prompt | None = None  # whose tokens replace those of the clean prompt


def _noisy(model: Any, encoded: Encoded, noise: Noise, samples: int, seed: int) -> _Corruption:
    embeddings, hook, scale = subject_embeddings(model, encoded)
    subject, added = encoded.subject, make_noise(embeddings, noise, samples, seed)
    assert subject is not None  # it has embeddings
    hooks = [corrupt(subject, scale * sample, hook=hook) for sample in added]
    place = hook if scale == 1 else f"{hook} ({scale:g} x the embedding)"
    return _Corruption([encoded] * len(added), hooks, subject, subject[0], noise=added, noise_at=place)


def _replaced(pair: Pair) -> _Corruption:
    """The run of the other prompt. Without a subject, the part that differs counts as the subject."""
    if not pair.differences:
        raise ValueError(f"corrupted={pair.corrupted.prompt.text!r} has the tokens of the clean prompt; give another")
    part = range(pair.differences[0], pair.differences[-1] + 1)
    subject = pair.clean.subject or part
    return _Corruption([pair.corrupted], None, subject, part[0], prompt=pair.corrupted.prompt)


def _run(
    model: Any, encoded: Encoded, corruption: _Corruption, metric: Metric, restorations: Sequence[Restoration]
) -> tuple[float, Float[Tensor, " sample"], list[Float[Tensor, "sample layer token"]]]:
    """The metric of the clean run, of the corrupted ones, and of these with each state restored, in each way."""
    layers, length = restorations[0].layers, encoded.tokens.shape[1]
    clean_states: dict[str, Tensor] = {}
    places = {r.site: r.having for r in restorations}
    keep = [hook for site, having in places.items() for hook in capture(site, having, clean_states)]
    clean = sweep(model, encoded, [keep], metric=metric)

    runs, embedding, samples = corruption.runs, corruption.embedding, range(len(corruption.runs))
    held: list[dict[str, Tensor]] = [{} for _ in samples]
    severed = {site: having for r in restorations for site, having in r.severed.items()}
    watched = [
        Intervention([hook for site, having in severed.items() for hook in capture(site, having, held[s])], prompt=s)
        for s in samples
    ]
    corrupted = sweep(model, runs, watched, metric=metric, embedding=embedding).float().cpu()

    # In a causal model, the corruption changes no state before it.
    first = corruption.first if restorations[0].causal else 0
    cells = [(layer, token) for token in range(first, length) for layer in layers]
    rows, columns = torch.tensor(cells).T
    restored = [corrupted[:, None, None].repeat(1, len(layers), length) for _ in restorations]
    for r, grid in zip(restorations, restored, strict=True):
        patched = [Intervention(r.hooks(clean_states, held[s], *cell), prompt=s) for cell in cells for s in samples]
        found = sweep(model, runs, patched, metric=metric, embedding=embedding).float().cpu()
        grid[:, rows, columns] = found.view(len(cells), len(samples)).T
    return float(clean), corrupted, restored
