"""Figure 9: where in a sentence, and in which layers, does a model hold what an answer depends on?

    python -m kntools.analyses.tracing_profile facts --limit 100 --out tracing-facts

`facts` are known facts, `determiner_noun` and `subject_verb` agreement; only prompts that the model gets right count.
`--out` names the files to write: `.safetensors`, `.csv` (the lines of the figure), `.html` (the figure) and
`-sites.csv` (the early and the late site against the rest). Started again with the same `--traces`, an interrupted run
goes on where it was.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from kntools import data
from kntools.analyses.profile_result import TracingProfile
from kntools.analyses.two_sites import two_sites
from kntools.noise import subject_sigma
from kntools.prompts import Prompt
from kntools.trace_result import Trace
from kntools.tracing import KINDS, causal_trace


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
    progress: bool = True,
    done: Iterable[Sequence[Trace]] = (),
    on_prompt: Callable[[Sequence[Trace]], object] | None = None,
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
        done: traces of the first prompts, from an earlier run of the same settings that was interrupted.
        on_prompt: called with the traces of each prompt as soon as they are done.

    Returns:
        `TracingProfile`. A role's effect in a prompt is the mean over its tokens; prompts count equally.

    Raises:
        ValueError: no prompts are left; `done` is from a run of other prompts or settings; see also `causal_trace`.
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
    settings = {"noise": level, "samples": samples, "two_way": two_way, "prepend_bos": prepend_bos}
    traces = list(done)
    for i, row in enumerate(traces):
        _check_done(row, asked[i : i + 1], variants, window, {**settings, "seed": seed + i})
    for i in tqdm(range(len(traces), len(asked)), disable=not progress, unit="prompt", leave=False):
        row = [
            causal_trace(
                model,
                asked[i],
                kind=kind,
                window=window,
                noise=level,
                samples=samples,
                sever=cut,
                seed=seed + i,
                two_way=two_way,
                multi_token="first",
                prepend_bos=prepend_bos,
                max_rows=max_rows,
                progress=False,
            )
            for kind, cut in variants
        ]
        traces.append(row)
        if on_prompt is not None:
            on_prompt(row)
    return TracingProfile.from_traces(traces, window)


def _check_done(
    row: Sequence[Trace],
    asked: Sequence[Prompt],
    variants: Sequence[tuple[str, str | None]],
    window: int,
    settings: dict[str, Any],
) -> None:
    """Traces that are taken over must be those that would be made."""
    wanted: dict[str, Any] = {"prompt": list(asked), "variants": list(variants), **settings}
    found: dict[str, Any] = {"prompt": [row[0].prompt], "variants": [(t.kind, t.sever) for t in row]}
    found |= {name: row[0].provenance["settings"].get(name) for name in settings}
    found["two_way"] = row[0].two_way
    for trace in row:
        if trace.kind != "hidden":
            wanted["window"], found["window"] = window, trace.window
    if wanted["prepend_bos"] is None:  # the model's own way, which the traces know
        wanted["prepend_bos"] = found["prepend_bos"]
    other = [f"{name} {found[name]!r} and not {wanted[name]!r}" for name in wanted if found[name] != wanted[name]]
    if other:
        raise ValueError(
            f"the kept traces are of another run: {'; '.join(other)}; start anew in another folder (--traces)"
        )


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


def _prompts(what: str, model: Any, limit: int, prepend_bos: bool | None) -> list[Prompt]:
    """The first `limit` prompts that the model gets right."""
    if what == "facts":
        asked = list(data.known_facts().prompts(model, multi_token="first"))
    elif what == "determiner_noun":
        asked = determiner_noun_prompts(model)
    else:
        asked = list(data.agreement_frames("subject_verb").prompts(model))
    found: list[Prompt] = []
    for start in range(0, len(asked), _ASKED_TOGETHER):
        some = asked[start : start + _ASKED_TOGETHER]
        right = data.known(model, some, two_way=what != "facts", prepend_bos=prepend_bos, progress=False)
        found += [p for p, r in zip(some, right, strict=True) if r]
        if len(found) >= limit:
            break
    return found[:limit]


def _kept(folder: Path | None) -> tuple[list[list[Trace]], Callable[[Sequence[Trace]], None]]:
    """Traces of an earlier run in `folder`, by prompt, and what keeps those of the next one."""
    if folder is None:
        return [], lambda row: None
    done = [
        [Trace.load(path) for path in sorted(prompt.glob("*.safetensors"))] for prompt in sorted(folder.glob("[0-9]*"))
    ]

    def keep(row: Sequence[Trace]) -> None:
        part, whole = folder / "part", folder / f"{len(done):04d}"
        shutil.rmtree(part, ignore_errors=True)
        for number, trace in enumerate(row):
            trace.save(part / f"{number}.safetensors")
        part.rename(whole)
        done.append(list(row))

    return list(done), keep


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the top of the module."""
    from kntools.models import load_model

    parser = argparse.ArgumentParser(prog="python -m kntools.analyses.tracing_profile", description="Figure 9.")
    add = parser.add_argument
    add("what", choices=("facts", "determiner_noun", "subject_verb"))
    add("--model", default="smollm2-135m")
    add("--limit", type=int, default=100, help="how many prompts that the model gets right")
    add("--samples", type=int, default=10)
    add("--window", type=int, default=10)
    add("--kinds", nargs="*", default=list(KINDS), choices=KINDS, help="default: all three")
    add("--sever", nargs="*", default=[], choices=("mlp", "attn"))
    add("--bos", action=argparse.BooleanOptionalAction, help="a BOS token first; default: the model's own way")
    add("--seed", type=int, default=0)
    add("--traces", type=Path, help="keep every trace in this folder; started again, the command goes on from there")
    add("--out", type=Path, required=True, help="files to write, without their ending")
    options = parser.parse_args(argv)
    model = load_model(options.model)
    done, keep = _kept(options.traces)
    profile = tracing_profile(
        model,
        _prompts(options.what, model, options.limit, options.bos),
        kinds=options.kinds,
        sever=options.sever,
        window=options.window,
        samples=options.samples,
        seed=options.seed,
        two_way=options.what != "facts",
        known_only=False,
        prepend_bos=options.bos,
        done=done[: options.limit],
        on_prompt=keep,
    )
    profile.save(options.out.with_suffix(".safetensors"))
    profile.to_frame().to_csv(options.out.with_suffix(".csv"), index=False, float_format="%.5f")
    profile.plot().write_html(options.out.with_suffix(".html"), include_plotlyjs=True)
    sites = two_sites(profile)
    sites.to_csv(options.out.with_name(f"{options.out.name}-sites.csv"), index=False, float_format="%.5f")
    print(profile)
    print(sites.to_string(index=False, float_format=lambda x: f"{x:.3f}"))


if __name__ == "__main__":
    main()
