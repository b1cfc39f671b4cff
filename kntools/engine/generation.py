"""Text sampled from the model, with local generators."""

from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from kntools import randomness
from kntools.arguments import decimal, several, whole, whole_text
from kntools.engine.inputs import as_batch, check_padding
from kntools.engine.plan import Intervention, checked_hooks
from kntools.engine.writing import Drawing, continue_tokens
from kntools.models import adapter
from kntools.models.adapter import tokenizer_of
from kntools.prompts import Encoded, Prompt, text_tokens
from kntools.sites import Hook
from kntools.tokenisation import text_of

#: A chat: messages with a role and a content.
Chat = Sequence[Mapping[str, Any]]
Start = str | Prompt | Encoded | Chat | Tensor | np.ndarray | Sequence[int]
Starts = Start | Sequence[Start]

_EXAMPLE = [{"role": "user", "content": "Hello"}]


def generate(
    model: Any,
    prompts: Starts,
    *,
    hooks: Sequence[Hook] = (),
    max_new_tokens: int = 32,
    temperature: float = 0.0,
    seed: int = 0,
    stop: str | Sequence[str] | None = None,
    top_k: int | None = None,
) -> Any:
    """The text that follows, for several prompts a list, with hooks if given.

    ```python
    kn.generate(model, "The capital of Canada is")                              # the most probable tokens, as text
    kn.generate(model, [prompt, "Rome is"], hooks=kn.ablate_neurons([(3, 7)]))  # a list of texts
    kn.generate(model, [{"role": "user", "content": "What is the capital of Canada?"}], stop=".")
    kn.generate(model, ["Once upon a time"] * 5, temperature=1.0, seed=1)       # five drawn ones
    ```

    Hooks with `pos` act at these positions of the prompt (-1 is its last token). Hooks without act at the last token
    of the prompt and at every new one; those with `pos=None` at every token (`patch`: of the prompt). A function of
    your own sees the whole text so far, `[1 pos ...]`, before each new token. The text is what a loop of full forward
    passes without a cache gives. A model without a tokenizer gives token ids, `[row new]`.

    Arguments:
        prompts: one text, `Prompt` or `Encoded` (whose own answer plays no part), chat (a list of messages
            `{"role": "user", "content": "..."}`, for the tokenizer's chat template) or row of token ids; or several, of
            any lengths.
        temperature: 0 takes the most probable token each time; above 0 divides the logits, and tokens are drawn.
        seed: prompt n uses its own generator, seeded with `seed + n`.
        stop: the text ends before the first of these strings, as it does before the model's own end token.
        top_k: draw among so many of the most probable tokens only.

    Raises:
        ValueError: a masked model, a text that would outgrow the context, token ids that are filled up to equal length,
            no chat template, an argument out of range.
        KeyError: a hook name that does not exist on the model.
        FloatingPointError: logits that are nan or inf.
    """
    rows, single = start_tokens(model, prompts)
    ends, draw = _Ends(model, stop), Drawing(temperature, top_k, seed)
    if isinstance(hooks, Intervention):
        raise TypeError("generate takes hooks, which act in every text; give those of the Intervention: run.hooks")
    if isinstance(hooks, Sequence) and any(isinstance(hook, list) for hook in hooks):
        raise TypeError("generate takes one list of hooks, not a list of lists: hooks=kn.ablate_neurons('L24.N1005')")
    new = continue_tokens(model, rows, max_new_tokens, draw, checked_hooks(hooks), ended=ends.ended)
    if model.tokenizer is None:
        return torch.stack(new)
    texts = list(map(ends.text, new))
    return texts[0] if single else texts


def generate_edited(
    model: Any, prompts: Sequence[Prompt], edits: Sequence[Sequence[Hook]], max_new_tokens: int
) -> list[str]:
    """The most probable text after each prompt, under the hooks of its own edit."""
    rows, _ = start_tokens(model, prompts)
    ends = _Ends(model, None)
    return list(map(ends.text, continue_tokens(model, rows, max_new_tokens, Drawing(), edits=edits, ended=ends.ended)))


def sample_texts(
    model: Any,
    tokens: int,
    *,
    seed: int,
    start: str | None = None,
    length: int = 128,
    rows: int = 16,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> Iterator[str]:
    """Texts that the model writes, of about `tokens` tokens together: what a second moment can be measured on offline.

    ```python
    C = kn.second_moment(model, 8, sample_texts(model, 50_000, seed=0))
    ```

    Text n does not depend on `tokens`; the last texts are not cut. Each begins with `start`, or else with the
    beginning-of-sequence token, and has `length` tokens unless the model ends it. `rows` are written at the same time:
    another number gives other texts.
    """
    decimal("temperature", temperature, above=0)  # at 0 it is the same text again and again
    tokens, rows, length = whole("tokens", tokens), whole("rows", rows, least=1), whole("length", length, least=1)
    tokenizer = tokenizer_of(model)
    bos = tokenizer.bos_token_id
    ids = [] if bos is None else [bos]
    ids += tokenizer(start, add_special_tokens=False)["input_ids"] if start else []
    if not ids:
        raise ValueError("this tokenizer has no BOS token to start from; give start=, e.g. start='The'")
    begun = torch.tensor([ids], device=adapter.device_of(model)).expand(rows, -1)
    draw = Drawing(temperature, top_k, generator=randomness.generator(seed))
    done, ends = 0, {tokenizer.eos_token_id, tokenizer.bos_token_id}
    while done < tokens:
        for row in (new.tolist() for new in continue_tokens(model, list(begun), length, draw, together=rows)):
            # A text that would be empty has its end as its only token: some chat models start with nothing else.
            kept = next((row[:n] for n, token in enumerate(row) if n and token in ends), row)
            if done < tokens:
                done += len(kept)
                if start:
                    yield start + text_of(tokenizer, kept, skip_special_tokens=True)
                else:
                    yield tokenizer.decode(kept, skip_special_tokens=True)


def sample_templates(model: Any, count: int, *, seed: int) -> tuple[str, ...]:
    """`"{}"` and `count - 1` templates that the model begins with its own words, as released code makes them.

    ```python
    kn.rome(model, prompt, " Rome", layer=8, settings=RomeSettings(templates=10, seed=0))
    ```
    """
    count = whole("templates", count, least=1)
    found: list[str] = []
    for text in sample_texts(model, 1_000_000, seed=seed, start="The", length=8, top_k=20):
        if len(found) == count - 1:
            break
        words = " ".join(text.replace("{", "").replace("}", "").split())
        if words and words not in found:
            found.append(words)
    return ("{}", *(f"{words.rstrip('.')}. {{}}" for words in found))


# --- what is continued -------------------------------------------------------------------------------------


def start_tokens(model: Any, given: Starts) -> tuple[list[Tensor], bool]:
    """The token ids `[pos]` of each text, and whether there is one text alone."""
    if isinstance(given, Tensor | np.ndarray):
        tokens = as_batch(model, torch.as_tensor(given))
        check_padding(model, tokens)
        return list(tokens), len(tokens) == 1
    if isinstance(given, str | Prompt | Encoded):
        return [_tokens(model, given)], True
    if isinstance(given, Mapping) or not isinstance(given, Sequence):
        raise TypeError(f"{given!r} cannot be continued; give a text, a Prompt, token ids, or a chat like {_EXAMPLE}")
    if not given:
        raise ValueError("no prompts given; pass a text, or a list with at least one")
    if isinstance(given[0], Mapping | Integral):
        return [_tokens(model, given)], True
    return [_tokens(model, start) for start in given], False


def _tokens(model: Any, start: Any) -> Int[Tensor, " pos"]:
    if isinstance(start, Encoded):
        return start.tokens[0, : start.position + 1]
    if isinstance(start, str | Prompt):
        return text_tokens(model, start if isinstance(start, str) else start.text)
    listed = isinstance(start, Sequence) and not all(isinstance(token, Integral) for token in start)
    [tokens] = as_batch(model, torch.as_tensor(_chat_tokens(model, start) if listed else start))
    check_padding(model, tokens[None])
    return tokens


def _chat_tokens(model: Any, messages: Sequence[Any]) -> list[int]:
    """A chat by the tokenizer's template; a last message of the assistant is continued, else it answers."""
    if not messages or not all(isinstance(m, Mapping) and {"role", "content"} <= m.keys() for m in messages):
        raise TypeError(f"{messages!r} is not a chat; write {_EXAMPLE}, or a list of such lists")
    for content in (m["content"] for m in messages if isinstance(m["content"], str)):
        whole_text("a message", content)
    tokenizer = tokenizer_of(model)
    if tokenizer.chat_template is None:
        raise ValueError(
            "the tokenizer has no chat template; give the text itself, or set model.tokenizer.chat_template"
        )
    own = messages[-1]["role"] == "assistant"
    options = {"continue_final_message": own, "add_generation_prompt": not own, "return_dict": False}
    return list(tokenizer.apply_chat_template(list(messages), tokenize=True, **options))


# --- where a text ends --------------------------------------------------------------------------------------


class _Ends:
    """Where a text ends: before an end token of the model's, or before a stop string."""

    def __init__(self, model: Any, stop: str | Sequence[str] | None) -> None:
        self.tokenizer = tokenizer_of(model) if stop else model.tokenizer
        self.stops = () if stop is None else (stop,) if isinstance(stop, str) else tuple(several("stop", stop, "'.'"))
        if not all(isinstance(s, str) and s for s in self.stops):
            raise ValueError(f"stop={stop!r}; give a string that is not empty, or several")
        self.stops = tuple(whole_text("stop", s) for s in self.stops)
        self.tokens = set[int]() if self.tokenizer is None else _end_tokens(model)

    def ended(self, new: Int[Tensor, "row new"]) -> bool:
        return all(not self.tokens.isdisjoint(ids) or self._stopped(ids) for ids in new.tolist())

    def text(self, new: Int[Tensor, " new"]) -> str:
        ids = new.tolist()
        count = next((n for n, token in enumerate(ids) if token in self.tokens), len(ids))
        text = text_of(self.tokenizer, ids[:count])
        return text[: self._stop_of(text)]

    def _stopped(self, ids: list[int]) -> bool:
        return bool(self.stops) and self._stop_of(text_of(self.tokenizer, ids)) is not None

    def _stop_of(self, text: str) -> int | None:
        return min((place for s in self.stops if (place := text.find(s)) >= 0), default=None)


def _end_tokens(model: Any) -> set[int]:
    """The tokenizer's end token, and those of the model's own settings that are special to the tokenizer."""
    tokenizer, source = model.tokenizer, getattr(model, "original_model", None)
    declared = getattr(getattr(source, "generation_config", None), "eos_token_id", None)
    listed = [] if declared is None else [declared] if isinstance(declared, int) else list(declared)
    special = {*tokenizer.all_special_ids, *getattr(tokenizer, "added_tokens_decoder", ())}
    return {tokenizer.eos_token_id, *(token for token in listed if token in special)} - {None}
