"""Turn records into prompts that a model can be asked, many at a time, counting what it cannot be asked.

`kntools.prompts.encode` says whether one prompt is good; here the same rules run over whole data sets, with
the tokenizer called on batches. A test holds the two together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from kntools.data.pairs import MinimalPair, align
from kntools.data.records import Candidate, Ids, Loaded, Prompts, Skipped
from kntools.models import adapter
from kntools.prompts import MASK, MultiToken, Prompt

# Reasons that depend on the tokenizer. Loaders name their own next to where they find them.
ANSWER_PIECES = "answer is not one token"
FOIL_PIECES = "foil is not one token"
UNKNOWN_WORD = "answer is not in the vocabulary"
MELTS = "answer melts into the text"
NOT_ONE_MASK = "not exactly one mask"
TOO_LONG = "longer than the model's context"
RE_ENCODES = "does not re-encode to the same tokens"


@dataclass(frozen=True)
class TokenizerOnly:
    """Enough of a model to make prompts, for counting what a tokenizer can use without having the weights.

    ```python
    kn.data.blimp("passive_1").prompts(TokenizerOnly(AutoTokenizer.from_pretrained("gpt2"))).skipped
    ```
    """

    tokenizer: Any

    @property
    def cfg(self) -> SimpleNamespace:
        """A tokenizer with a mask is a masked model's."""
        direction = "bidirectional" if self.tokenizer.mask_token else "causal"
        return SimpleNamespace(attention_dir=direction, n_ctx=self.tokenizer.model_max_length)


def to_prompts(
    loaded: Loaded[Any], model: Any, *, role: str | None = None, multi_token: MultiToken = "error"
) -> Prompts:
    """The records as prompts for `model`, masked or causal, with a count of what it cannot be asked.

    ```python
    prompts = kn.data.blimp("determiner_noun_agreement_1").prompts(model)
    prompts[0], prompts.skipped
    ```

    Arguments:
        loaded: what a loader returned.
        model: any TransformerLens model with a tokenizer, or a `TokenizerOnly`.
        role: only these questions of each record, e.g. `"rewrite"` of a CounterFact record; `None` for all.
        multi_token: `"error"` skips answers of several tokens; `"first"` and `"sum"` keep them (pass the same
            to `kn.encode`). A minimal pair differs in exactly one token whatever this says.

    Returns:
        `Prompts`. Used and skipped together are all the questions of the records.

    Raises:
        ValueError: the model has no tokenizer, or the records have no such role.
    """
    tokenizer = model.tokenizer
    if tokenizer is None:
        raise ValueError("this model has no tokenizer; set model.tokenizer first")
    masked = adapter.is_masked(model)
    found = _candidates(loaded.records, tokenizer, masked)
    if role is not None:
        roles = sorted({candidate.role for _, candidate in found})
        if found and role not in roles:
            raise ValueError(f"these records have no role {role!r}; they have {', '.join(roles)}")
        found = [(record, candidate) for record, candidate in found if candidate.role == role]

    asked = [(record, c) for record, c in found if c.prompt is not None]
    prompts = [c.prompt for _, c in asked if c.prompt is not None]
    ids = _masked_ids(tokenizer, prompts) if masked else _causal_ids(tokenizer, prompts)
    added = tokenizer.num_special_tokens_to_add() if masked else 1  # [CLS] and [SEP], or BOS
    room = adapter.context_length(model) - added
    reasons = _reasons([c for _, c in asked], ids, tokenizer, masked, room, multi_token)
    good = [i for i, reason in enumerate(reasons) if not reason]
    return Prompts(
        prompts=tuple(prompts[i] for i in good),
        records=tuple(asked[i][0] for i in good),
        roles=tuple(asked[i][1].role for i in good),
        skipped=Skipped.of([c.reason for _, c in found if c.prompt is None] + [r for r in reasons if r]),
        source=loaded.source,
    )


def _candidates(records: Sequence[Any], tokenizer: Any, masked: bool) -> list[tuple[Any, Candidate]]:
    if records and isinstance(records[0], MinimalPair):
        return list(zip(records, align(tokenizer, masked, records), strict=True))
    return [(record, candidate) for record in records for candidate in record.candidates(masked)]


def _reasons(
    candidates: list[Candidate],
    ids: list[Ids | None],
    tokenizer: Any,
    masked: bool,
    room: int,
    multi_token: MultiToken,
) -> list[str]:
    """Why each prompt cannot be asked, or an empty string."""
    mask, unknown = (tokenizer.mask_token_id, tokenizer.unk_token_id) if masked else (None, None)
    one_token = multi_token == "error" or (masked and multi_token == "sum")  # a mask is one piece
    out = []
    for candidate, found in zip(candidates, ids, strict=True):
        text, target, foil = found or ((), (), None)
        forced = len(target) - 1 if multi_token == "sum" else 0
        problems = (
            (found is None, MELTS),
            (masked and text.count(mask) != 1, NOT_ONE_MASK),
            (masked and unknown in (*target, *(foil or ())), UNKNOWN_WORD),
            (one_token and len(target) != 1, ANSWER_PIECES),
            (one_token and foil is not None and len(foil) != 1, FOIL_PIECES),
            (len(text) + forced > room, TOO_LONG),
            (candidate.ids is not None and candidate.ids != found, RE_ENCODES),
        )
        out.append(next((reason for is_so, reason in problems if is_so), ""))
    return out


def _masked_ids(tokenizer: Any, prompts: Sequence[Prompt]) -> list[Ids | None]:
    texts = _ids(tokenizer, [prompt.text.replace(MASK, tokenizer.mask_token) for prompt in prompts])
    targets = _ids(tokenizer, [prompt.target.strip() for prompt in prompts])
    foils = _ids(tokenizer, [(prompt.foil or "").strip() for prompt in prompts])
    return [
        (text, target, None if prompt.foil is None else foil)
        for prompt, text, target, foil in zip(prompts, texts, targets, foils, strict=True)
    ]


def _causal_ids(tokenizer: Any, prompts: Sequence[Prompt]) -> list[Ids | None]:
    """Ids of text, target and foil; `None` where an answer changes the tokens of the text before it."""
    texts = _ids(tokenizer, [prompt.text for prompt in prompts])
    targets = _ids(tokenizer, _continued(prompts, [prompt.target for prompt in prompts]))
    foils = _ids(tokenizer, _continued(prompts, [prompt.foil or prompt.target for prompt in prompts]))
    out: list[Ids | None] = []
    for prompt, text, target, foil in zip(prompts, texts, targets, foils, strict=True):
        n = len(text)
        melts = target[:n] != text or foil[:n] != text or n in (len(target), len(foil))
        out.append(None if melts else (text, target[n:], None if prompt.foil is None else foil[n:]))
    return out


def _continued(prompts: Sequence[Prompt], answers: list[str]) -> list[str]:
    """The texts with their answers; a word gets a space before it, as in `kn.encode`."""
    return [
        prompt.text + (" " if answer[0].isalnum() else "") + answer
        for prompt, answer in zip(prompts, answers, strict=True)
    ]


def _ids(tokenizer: Any, texts: list[str]) -> list[tuple[int, ...]]:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None and backend.padding is None and backend.truncation is None:
        # The same ids as from the tokenizer itself, which spends most of its time on what is not needed here.
        return [tuple(e.ids) for e in backend.encode_batch_fast(texts, add_special_tokens=False)]
    return [tuple(ids) for ids in tokenizer(texts, add_special_tokens=False)["input_ids"]] if texts else []
