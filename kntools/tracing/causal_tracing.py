"""Causal tracing: which states of the clean run bring the answer back after its subject was corrupted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kntools.engine.sweep import Intervention, Metric, sweep
from kntools.hooks.interventions import capture, freeze, patch
from kntools.metrics import logit_difference, probability
from kntools.models import adapter
from kntools.prompts import Encoded, MultiToken, Prompt, encode
from kntools.results.provenance import provenance
from kntools.sites import Hook, hook_name
from kntools.tracing.noise import Noise, corruptions, make_noise, subject_of
from kntools.tracing.trace import Trace

KINDS = ("hidden", "mlp", "attn")


def causal_trace(
    model: Any,
    prompt: Prompt,
    *,
    kind: str = "hidden",
    window: int = 10,
    noise: Noise = "3sigma",
    samples: int = 10,
    sever: str | None = None,
    sever_at: str = "restored",
    seed: int = 0,
    two_way: bool = False,
    multi_token: MultiToken = "error",
    prepend_bos: bool | None = None,
    max_rows: int | None = None,
    progress: bool = True,
) -> Trace:
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
        prompt: a prompt with a subject. For a masked model the answer is read at the mask.
        kind: `"hidden"` restores the output of one block; `"mlp"` and `"attn"` what the MLPs or attentions of several
            layers add to the residual stream.
        window: how many layers `"mlp"` and `"attn"` restore together: `[l - window // 2, l - window // 2 + window)`,
            clipped to the model (10 layers around l; an even window has one more layer below than above).
        noise: `"3sigma"` is Gaussian noise with 3 times the standard deviation of this subject's own embeddings (for
            that of a data set, `3 * subject_sigma(model, prompts)`); a number is its standard deviation; a tensor
            `[sample subject d_model]` is the noise itself, and then the result depends on nothing else.
        samples: how many samples of noise; the probability is averaged over them. A tensor brings its own.
        sever: hold the outputs of all `"mlp"` or `"attn"` above the restored state at their values in the corrupted
            run, sample by sample: what is left is the effect that does not pass through them.
        sever_at: at the `"restored"` token (as published), or at `"all"` tokens.
        seed: of the noise. The global random state is not used.
        two_way: read the answer's probability against the prompt's foil alone, P(target) / (P(target) + P(foil)): for
            agreement, where the right noun is one of thousands.
        multi_token: what to do with an answer of several tokens, as in `encode`.
        prepend_bos: as in `encode`.
        max_rows: rows per forward pass; `None` chooses from free memory.
        progress: show a progress bar.

    Returns:
        `Trace`, on the CPU.

    Raises:
        ValueError: no subject, a window that does not fit the model, noise of the wrong shape or below zero, an
            unknown kind.
        FloatingPointError: activations that are nan or inf.
    """
    if kind not in KINDS or sever not in (None, "mlp", "attn") or sever_at not in ("restored", "all"):
        raise ValueError(
            f"kind={kind!r}, sever={sever!r}, sever_at={sever_at!r}; kind is 'hidden', 'mlp' or 'attn', "
            "sever None, 'mlp' or 'attn', and sever_at 'restored' or 'all'"
        )
    layers = adapter.n_layers(model)
    if kind != "hidden" and not 1 <= window <= layers:
        raise ValueError(f"window={window}; this model has {layers} layers: give 1 to {layers}")
    encoded = encode(model, prompt, prepend_bos, multi_token=multi_token)
    added = make_noise(model, encoded, noise, samples, seed)
    about = provenance(
        model,
        noise="given" if isinstance(noise, Tensor) else noise,
        samples=added.shape[0],
        seed=None if isinstance(noise, Tensor) else seed,
        multi_token=multi_token,
        prepend_bos=encoded.prepend_bos,
    )
    metric = _against_foil(encoded) if two_way else probability(encoded.target_ids)
    trace = _Tracer(model, encoded, added, metric, kind, 1 if kind == "hidden" else window, sever, sever_at, max_rows)
    clean, corrupted, per_sample = trace.run(progress)
    return Trace(
        per_sample=per_sample,
        corrupted_per_sample=corrupted,
        noise=added,
        clean=clean,
        tokens=encoded.str_tokens,
        subject=subject_of(encoded),
        answer=encoded.position,
        kind=kind,
        window=trace.window,
        sever=sever,
        sever_at=sever_at,
        two_way=two_way,
        prompt=prompt,
        provenance=about,
    )


def _against_foil(encoded: Encoded) -> Metric:
    if encoded.foil_ids is None or len(encoded.target_ids) != 1:
        raise ValueError(
            "two_way=True compares one token with another: Prompt(..., foil='...'), and multi_token='first' if needed"
        )
    difference = logit_difference(encoded.target_ids[0], encoded.foil_ids[0])
    return lambda logits: difference(logits).sigmoid()


class _Tracer:
    """One trace: the prompt once per sample of noise, and an intervention per state and sample."""

    def __init__(
        self,
        model: Any,
        encoded: Encoded,
        noise: Tensor,
        metric: Metric,
        kind: str,
        window: int,
        sever: str | None,
        sever_at: str,
        max_rows: int | None,
    ) -> None:
        self.model, self.encoded, self.metric, self.kind, self.window = model, encoded, metric, kind, window
        self.sever, self.sever_at, self.max_rows = sever, sever_at, max_rows
        self.samples, self.layers, self.length = noise.shape[0], adapter.n_layers(model), encoded.tokens.shape[1]
        self.embedding = corruptions(model, encoded, noise)
        self.site = adapter.state_site(model, kind)

    def run(self, progress: bool) -> tuple[float, Tensor, Tensor]:
        """The clean probability, the corrupted ones `[sample]`, and the restored ones `[sample layer token]`."""
        clean_states: dict[str, Tensor] = {}
        clean = self._sweep([Intervention(capture(clean_states, [self.site], range(self.layers)))], corrupted=False)
        held, corrupted = self._corrupted_runs()
        self._rename(clean_states)
        cells = [(layer, token) for token in self._tokens() for layer in range(self.layers)]
        runs = [
            Intervention(self._restore(clean_states, layer, token) + self._cut(held, layer, token, s), prompt=s)
            for layer, token in cells
            for s in range(self.samples)
        ]
        restored = corrupted[:, None, None].repeat(1, self.layers, self.length)
        layers, tokens = torch.tensor(cells).T
        restored[:, layers, tokens] = self._sweep(runs, progress=progress).view(len(cells), self.samples).T
        return float(clean), corrupted, restored

    def _tokens(self) -> range:
        """Tokens whose states the noise can have changed: in a causal model, none before the subject."""
        first = 0 if adapter.is_masked(self.model) else subject_of(self.encoded)[0]
        return range(first, self.length)

    def layers_around(self, layer: int) -> range:
        first = layer - self.window // 2
        return range(max(0, first), min(self.layers, first + self.window))

    def _rename(self, states: dict[str, Tensor]) -> None:
        """The output of a block is the input of the next: restored there, its rows need not run the block itself."""
        if self.kind == "hidden":
            for layer in range(self.layers - 1):
                states[hook_name("resid_pre", layer + 1)] = states.pop(hook_name(self.site, layer))

    def _restore(self, states: dict[str, Tensor], layer: int, token: int) -> list[Hook]:
        if self.kind == "hidden" and layer < self.layers - 1:
            return patch(states, "resid_pre", layer + 1, [token])
        return freeze(states, [self.site], self.layers_around(layer), [token])

    def _cut(self, held: list[dict[str, Tensor]], layer: int, token: int, sample: int) -> list[Hook]:
        if self.sever is None:
            return []
        above = range(self.layers_around(layer)[-1] + 1, self.layers)
        where = [token] if self.sever_at == "restored" else range(token, self.length)
        if self.sever_at == "all" and adapter.is_masked(self.model):
            where = range(self.length)
        return freeze(held[sample], [adapter.state_site(self.model, self.sever)], above, where)

    def _corrupted_runs(self) -> tuple[list[dict[str, Tensor]], Tensor]:
        """What is severed, as it is in each corrupted run, and the answer's probability there."""
        held: list[dict[str, Tensor]] = [{} for _ in range(self.samples)]
        sites = [] if self.sever is None else [adapter.state_site(self.model, self.sever)]
        runs = [Intervention(capture(held[s], sites, range(self.layers)), prompt=s) for s in range(self.samples)]
        return held, self._sweep(runs)

    def _sweep(self, runs: list[Intervention], *, corrupted: bool = True, progress: bool = False) -> Tensor:
        found = sweep(
            self.model,
            self.encoded.tokens.expand(self.samples if corrupted else 1, -1),
            runs,
            pos=[list(self.encoded.positions)] * (self.samples if corrupted else 1),
            metric=self.metric,
            embedding=self.embedding if corrupted else None,
            max_rows=self.max_rows,
            progress=progress,
        )
        return found.float().cpu()
