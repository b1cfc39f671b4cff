"""What the model is asked to continue: texts, prompts, chats or token ids, one or several."""

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from kntools.arguments import whole_text
from kntools.engine.inputs import as_batch, check_padding
from kntools.models.adapter import tokenizer_of
from kntools.prompts import Encoded, Prompt, text_tokens

#: A chat: messages with a role and a content.
Chat = Sequence[Mapping[str, Any]]
Start = str | Prompt | Encoded | Chat | Tensor | np.ndarray | Sequence[int]
Starts = Start | Sequence[Start]

_EXAMPLE = [{"role": "user", "content": "Hello"}]


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
