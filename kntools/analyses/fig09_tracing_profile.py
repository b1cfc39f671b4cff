"""Figure 9: where in a sentence, and in which layers, does a model hold what an answer depends on?

    python -m kntools.analyses.fig09_tracing_profile facts --limit 100 --out tracing-facts

`facts` are known facts, `determiner_noun` and `subject_verb` agreement; only prompts that the model gets right count.
`--out` names the files to write: `.safetensors`, `.csv` (the lines of the figure), `.html` (the figure) and
`-sites.csv` (the early and the late site against the rest); `--run` a folder from which a killed run goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from kntools import data
from kntools.analyses import command
from kntools.analyses.neuron_search import open_run
from kntools.analyses.profile_result import TracingProfile
from kntools.analyses.prompt_groups import prompt_item
from kntools.analyses.two_sites import two_sites
from kntools.prompts import Prompt
from kntools.results.table import numbers, without_nan
from kntools.tracing.causal_tracing import KINDS, causal_trace
from kntools.tracing.noise import subject_sigma


def tracing_profile(
    model: Any,
    prompts: Sequence[Prompt],
    *,
    kinds: Sequence[str] = KINDS,
    sever: Sequence[str] = (),
    window: int = 10,
    noise: float | str = "3sigma",
    samples: int = 10,
    seed: int = 0,
    two_way: bool = False,
    known_only: bool = True,
    prepend_bos: bool | None = None,
    max_rows: int | None = None,
    run: str | Path | None = None,
    progress: bool = True,
) -> TracingProfile:
    """Average indirect effect by token role and layer (Meng et al. 2022, figure 2; Niu et al. 2024, figure 9).

    ```python
    facts = kn.data.known_facts(limit=100, known_only=model).prompts(model, multi_token="first")
    profile = tracing_profile(model, facts)
    profile.plot()
    ```

    Arguments:
        prompts: with subjects. The first token of an answer counts.
        kinds: what is restored; see `causal_trace`.
        sever: also trace hidden states with `"mlp"` or `"attn"` severed.
        window: layers that are restored together for `"mlp"` and `"attn"`.
        noise: `"3sigma"` is 3 standard deviations of the embeddings of all these subjects; or a number.
        samples: of noise per prompt; prompt i draws them with `seed + i`.
        two_way: read the answer against the foil alone, as in `causal_trace`; what counts as right changes with it.
        known_only: leave out prompts that the model gets wrong.
        run: a folder that keeps each finished prompt, from which a killed run goes on.

    Returns:
        `TracingProfile`. A role's effect in a prompt is the mean over its tokens; prompts count equally.

    Raises:
        ValueError: no prompts are left, or a run folder of another run; see also `causal_trace`.
    """
    asked = list(prompts)
    if known_only:
        right = data.known(model, asked, two_way=two_way, prepend_bos=prepend_bos, progress=progress)
        asked = [p for p, r in zip(asked, right, strict=True) if r]
    if not asked:
        raise ValueError("no prompts to trace: none was given, or the model gets none of them right")
    level: float | str = noise
    if isinstance(noise, str):
        level = float(noise.removesuffix("sigma")) * subject_sigma(model, asked, prepend_bos=prepend_bos)
    variants: list[tuple[str, str | None]] = [(kind, None) for kind in kinds] + [("hidden", cut) for cut in sever]
    if not variants:
        raise ValueError(f"nothing to trace: kinds and sever are both empty; kinds are {', '.join(KINDS)}")
    settings = {
        "noise": level, "samples": samples, "two_way": two_way, "window": window, "variants": variants, "seed": seed,
        "prepend_bos": prepend_bos,
    }  # fmt: skip
    folder = open_run(run, "tracing profile", model, **settings)
    numbered = list(enumerate(asked))

    def traced(one: tuple[int, Prompt]) -> dict[str, Any]:
        number, prompt = one
        traces = [
            causal_trace(
                model, prompt, kind=kind, window=window, noise=level, samples=samples, sever=cut, seed=seed + number,
                two_way=two_way, multi_token="first", prepend_bos=prepend_bos, max_rows=max_rows, progress=False,
            )
            for kind, cut in variants
        ]  # fmt: skip
        effects = [without_nan(t.by_role().tolist()) for t in traces]
        return {"effects": effects, "clean": traces[0].clean, "corrupted": traces[0].corrupted}

    found = folder.each(
        numbered, key=lambda one: f"{one[0]}/{prompt_item(one[1])}", make=traced, unit="prompt", progress=progress
    )
    return TracingProfile(
        effects=torch.stack([_tensor(payload["effects"]) for payload in found], dim=1),
        clean=torch.tensor([payload["clean"] for payload in found]),
        corrupted=torch.tensor([payload["corrupted"] for payload in found]),
        variants=tuple(variants),
        prompts=tuple(asked),
        window=window,
        provenance=folder.header,
    )


def _tensor(effects: list[list[list[float | None]]]) -> Float[Tensor, "variant role layer"]:
    """`None` is a role that the prompt has no token of."""
    return torch.tensor([[numbers(line) for line in variant] for variant in effects])


#: What may be traced by name -> is the answer read against the foil alone (`two_way`)?
PROMPTS = {"facts": False, "determiner_noun": True, "subject_verb": True}

# Prompts whose answers are checked at a time, until there are enough.
_ASKED_TOGETHER = 128


def determiner_noun_prompts(model: Any, limit: int | None = None) -> list[Prompt]:
    """BLiMP's pairs with an adjective: `Rebecca was criticizing those good` -> ` documentaries`, subject `those`.

    Without a word between determiner and noun the determiner would be the last token of a causal model's prompt, and
    restoring it in any layer would restore everything.
    """
    pairs = data.blimp("determiner_noun_agreement_with_adjective_1").prompts(model)
    found = []
    for record, prompt in zip(pairs.records, pairs.prompts, strict=True):
        word = data.determiner(record)
        if word and prompt.text.count(word) == 1:
            found.append(Prompt(prompt.text, prompt.target, subject=word, foil=prompt.foil))
    return found[:limit]


def traced_prompts(model: Any, what: str, *, limit: int, prepend_bos: bool | None = None) -> list[Prompt]:
    """The first `limit` prompts that the model gets right, of `"facts"`, `"determiner_noun"` or `"subject_verb"`."""
    if what == "facts":
        asked = list(data.known_facts().prompts(model, multi_token="first"))
    elif what == "determiner_noun":
        asked = determiner_noun_prompts(model)
    else:
        asked = list(data.agreement_frames("subject_verb").prompts(model))
    found: list[Prompt] = []
    for start in range(0, len(asked), _ASKED_TOGETHER):
        some = asked[start : start + _ASKED_TOGETHER]
        right = data.known(model, some, two_way=PROMPTS[what], prepend_bos=prepend_bos, progress=False)
        found += [p for p, r in zip(some, right, strict=True) if r]
        if len(found) >= limit:
            break
    return found[:limit]


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the top of the module."""
    parser = command.parser("tracing_profile", "Figure 9.")
    add = parser.add_argument
    add("what", choices=tuple(PROMPTS))
    add("--limit", type=int, default=100, help="how many prompts that the model gets right")
    add("--samples", type=int, default=10)
    add("--window", type=int, default=10)
    add("--kinds", nargs="*", default=list(KINDS), choices=KINDS, help="default: all three")
    add("--sever", nargs="*", default=[], choices=("mlp", "attn"))
    o = parser.parse_args(argv)
    model = command.load(o)
    profile = tracing_profile(
        model,
        traced_prompts(model, o.what, limit=o.limit, prepend_bos=o.bos),
        kinds=o.kinds,
        sever=o.sever,
        window=o.window,
        samples=o.samples,
        seed=o.seed,
        two_way=PROMPTS[o.what],
        known_only=False,
        prepend_bos=o.bos,
        run=o.run,
    )
    sites = two_sites(profile)
    command.write(profile, o.out, data=".safetensors", sites=sites)
    print(profile)
    print(sites.to_string(index=False, float_format=lambda x: f"{x:.3f}"))


if __name__ == "__main__":
    main()
