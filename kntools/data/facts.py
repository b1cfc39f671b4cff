"""Facts that GPT-2 XL predicts, used for causal tracing (Meng et al., 2022)."""

from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from kntools.data import sources
from kntools.data.filters import Filters, select
from kntools.data.patterns import ask
from kntools.data.read import json_array
from kntools.data.records import Candidate, Loaded


@dataclass(frozen=True)
class KnownFact:
    """One fact. `prompt` ends where `target` begins.

    `prediction` is GPT-2 XL's continuation of the filled template.
    """

    known_id: int
    subject: str
    target: str
    prompt: str
    template: str
    prediction: str
    relation: str

    def candidates(self, masked: bool) -> list[Candidate]:
        starts = self.template.find("{}")
        return [ask("fact", self.prompt, masked, self.target, subject=self.subject, starts=starts)]


def known_facts(*, path: str | Path | None = None, **filters: Unpack[Filters]) -> Loaded[KnownFact]:
    """The 1,209 facts of ROME's `known_1000.json`, which GPT-2 XL answers correctly.

    ```python
    facts = kn.data.known_facts(limit=100, known_only=model)
    for prompt in facts.prompts(model):
        trace = kn.causal_trace(model, prompt)
    ```
    """
    wanted = sources.Wanted("ROME's known facts", ("counterfact/known_1000.json",), json_array)
    [rows], source = sources.load(wanted, path)
    facts = [row.template().record(KnownFact, target="attribute", relation="relation_id") for row in rows]
    return select(facts, source, **filters)
