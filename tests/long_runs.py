"""Analyses that keep what they have finished, on a small model: in this process, or in one to be killed."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import kntools as kn
from kntools.analyses.fig03_localisation import localisation
from kntools.analyses.fig09_tracing_profile import tracing_profile
from kntools.analyses.neuron_search import SearchSettings
from kntools.analyses.prompt_group import PromptGroup, prompt_groups
from kntools.results.run_store import RunStore
from tests import planted

Groups = tuple[PromptGroup, ...]
PAUSE = 0.5  # seconds after each item, for the one who kills
#: A process that has imported what this one has: a new one would take seconds for that.
PROCESSES = multiprocessing.get_context("fork")
ONE = SearchSettings(target_count=(1, 5))


def _with_subjects(groups: Groups) -> list[kn.Prompt]:
    return [kn.Prompt(p.text, p.target, subject=p.text.split()[-1]) for group in groups for p in group.prompts]


ANALYSES: dict[str, Callable[[Any, Groups, dict[str, Any]], Any]] = {
    "localisation": lambda m, groups, run: localisation(m, groups, settings=ONE, null="answers", **run),
    "tracing_profile": lambda m, groups, run: tracing_profile(
        m, _with_subjects(groups)[:6], window=2, samples=2, known_only=False, **run
    ),
}


def result_of(what: str, folder: Path) -> bytes:
    """What the analysis saves, kept in and continued from a run."""
    with TemporaryDirectory() as scratch:
        pairs = planted.write_pairs(Path(scratch))
        model = planted.cached()
        groups = prompt_groups(model, "determiner_noun_agreement_1", frames=3, path=pairs)
        found = ANALYSES[what](model, groups, {"run": folder})
        ending = ".safetensors" if what.endswith("_profile") else ".json"
        return found.save(Path(scratch) / f"result{ending}").read_bytes()


def _slowly(put: Callable[..., None]) -> Callable[..., None]:
    def wrapped(*args: Any) -> None:
        put(*args)
        time.sleep(PAUSE)

    return wrapped


def slow_result_of(what: str, folder: Path) -> None:
    """In a process of its own."""
    RunStore.put = _slowly(RunStore.put)  # type: ignore[method-assign]
    result_of(what, folder)
