"""Figure 9: where in a sentence, and in which layers, does a model hold what an answer depends on?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch

from kntools import data
from kntools.analyses.neuron_search import open_run
from kntools.analyses.profile_result import TracingProfile
from kntools.analyses.prompt_group import prompt_item
from kntools.arguments import whole
from kntools.models import adapter
from kntools.prompts import Prompt
from kntools.results.table import Row
from kntools.tracing.causal_tracing import causal_trace
from kntools.tracing.noise import subject_sigma
from kntools.tracing.restoration import KINDS, WINDOW, Kind, Severed
from kntools.tracing.weak_corruption import unwarned, warn_of_weak_corruption

Traced = Literal["facts", "determiner_noun", "subject_verb"]

#: What may be traced by name -> is the answer read against the foil alone (`two_way`)?
TRACED: dict[Traced, bool] = {"facts": False, "determiner_noun": True, "subject_verb": True}

# Prompts whose answers are checked at a time, until there are enough.
_ASKED_TOGETHER = 128


def tracing_profile(
    model: Any,
    prompts: Sequence[Prompt],
    *,
    kinds: Sequence[Kind] = KINDS,
    sever: Sequence[Severed] = (),
    window: int | None = None,
    noise: float | str = "3sigma",
    samples: int = 10,
    seed: int = 0,
    two_way: bool = False,
    known_only: bool = True,
    run: str | Path | None = None,
) -> TracingProfile:
    """Average indirect effect by token role and layer (Meng et al. 2022, figure 2; Niu et al. 2024, figure 9).

    ```python
    facts = kn.data.known_facts(limit=100, known_only=model).prompts(model, multi_token="first")
    profile = tracing_profile(model, facts)
    profile.plot()
    ```

    Arguments:
        prompts: with subjects. The first token of an answer counts; prompts count equally.
        kinds: what is restored; see `causal_trace`.
        sever: also trace hidden states with `"mlp"` or `"attn"` severed.
        window: layers that are restored together for `"mlp"` and `"attn"`; `None` is 10, or all of a smaller model.
        noise: `"3sigma"` is 3 standard deviations of the embeddings of all these subjects; or a number.
        samples: of noise per prompt; prompt i draws them with `seed + i`.
        two_way: read the answer against the foil alone (the metric of that name); what counts as right changes with it.
        known_only: leave out prompts that the model gets wrong.

    Raises:
        ValueError: no prompts are left, or the file of another run; see also `causal_trace`.
    """
    samples, seed = whole("samples", samples, least=1), whole("seed", seed)
    variants: list[tuple[Kind, Severed | None]] = [(kind, None) for kind in kinds]
    variants += [("hidden", cut) for cut in sever]
    if not variants:
        raise ValueError(f"nothing to trace: kinds and sever are both empty; kinds are {', '.join(KINDS)}")
    asked = [replace(prompt, multi_token="first") for prompt in prompts]
    if known_only:
        asked = _known(model, asked, two_way)
    if not asked:
        raise ValueError("no prompts to trace: none was given, or the model gets none of them right")
    level = float(noise.removesuffix("sigma")) * subject_sigma(model, asked) if isinstance(noise, str) else noise
    together = min(WINDOW, adapter.n_layers(model)) if window is None else window
    settings = {"noise": level, "samples": samples, "two_way": two_way, "window": together, "seed": seed}
    folder = open_run(run, "tracing profile", model, variants=variants, **settings)

    def trace(numbered: tuple[int, Prompt]) -> Row:
        number, prompt = numbered
        options: dict[str, Any] = {"noise": level, "samples": samples, "window": together, "seed": seed + number}
        options["metric"] = "two_way" if two_way else "probability"
        with unwarned():
            traces = [causal_trace(model, prompt, kind=kind, sever=cut, **options) for kind, cut in variants]
        effects = torch.stack([t.by_role() for t in traces])
        return {"effects": effects, "clean": traces[0].clean, "corrupted": traces[0].corrupted}

    found = folder.each(
        list(enumerate(asked)), key=lambda item: f"{item[0]}/{prompt_item(item[1])}", make=trace, unit="prompt"
    )
    clean, corrupted = ([payload[side] for payload in found] for side in ("clean", "corrupted"))
    warn_of_weak_corruption([prompt.text for prompt in asked], clean, corrupted)
    return TracingProfile(
        effects=torch.stack([payload["effects"] for payload in found], dim=1),
        clean=torch.tensor(clean, dtype=torch.float32),
        corrupted=torch.tensor(corrupted, dtype=torch.float32),
        variants=tuple(variants),
        prompts=tuple(asked),
        window=together,
        provenance=folder.header,
    )


def _known(model: Any, prompts: Sequence[Prompt], two_way: bool) -> list[Prompt]:
    return [p for p, right in zip(prompts, data.known(model, prompts, two_way=two_way), strict=True) if right]


def traced_prompts(model: Any, what: Traced, *, limit: int) -> list[Prompt]:
    """The first `limit` prompts that the model gets right, of `"facts"`, `"determiner_noun"` or `"subject_verb"`.

    ```python
    tracing_profile(model, traced_prompts(model, "subject_verb", limit=50), two_way=True, known_only=False)
    ```
    """
    if what == "facts":
        asked = list(data.known_facts().prompts(model, multi_token="first"))
    elif what == "determiner_noun":
        asked = determiner_noun_prompts(model)
    else:
        asked = list(data.agreement_frames(what).prompts(model))
    parts = (asked[start : start + _ASKED_TOGETHER] for start in range(0, len(asked), _ASKED_TOGETHER))
    return list(islice((prompt for part in parts for prompt in _known(model, part, TRACED[what])), limit))


def determiner_noun_prompts(model: Any) -> list[Prompt]:
    """BLiMP's pairs with an adjective: `Rebecca was criticizing those good` -> ` documentaries`, subject `those`.

    Were the determiner the last token, restoring it in any layer would restore everything.
    """
    pairs = data.blimp("determiner_noun_agreement_with_adjective_1").prompts(model)
    words = [(prompt, data.determiner(record)) for record, prompt in zip(pairs.records, pairs.prompts, strict=True)]
    return [replace(prompt, subject=word) for prompt, word in words if word and prompt.text.count(word) == 1]
