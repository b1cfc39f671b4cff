"""Text that the model itself writes, drawn by a generator of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from kntools.models import adapter


@torch.no_grad()
def generate(
    model: Any,
    tokens: Int[Tensor, "row pos"],
    count: int,
    *,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
) -> Int[Tensor, "row count"]:
    """Continue texts of equal length by `count` tokens; keys and values are kept, so each costs one position.

    ```python
    generate(model, kn.encode(model, prompt).tokens, 20)                                     # most probable tokens
    generate(model, tokens, 20, generator=torch.Generator().manual_seed(0), top_k=5)         # drawn
    ```

    Arguments:
        generator: on the CPU. `None` takes the most probable token each time.
        temperature: divides the logits.
        top_k: draw among so many of the most probable tokens only.

    Raises:
        ValueError: a masked model, a text that would outgrow the context, an argument out of range.
    """
    if adapter.is_masked(model):
        raise ValueError("a masked model does not continue texts")
    if temperature <= 0 or count < 1 or (top_k is not None and top_k < 1):
        raise ValueError(f"temperature={temperature}, count={count}, top_k={top_k}; all must be above 0")
    limit = adapter.context_length(model)
    if tokens.shape[1] + count > limit:
        raise ValueError(f"{tokens.shape[1]} tokens and {count} more; the model's context holds {limit}")
    step, new = adapter.Steps(model, tokens.shape[0]), tokens.to(adapter.device_of(model))
    out = []
    for _ in range(count):
        logits = step(new)[:, -1].float().cpu()
        if not bool(torch.isfinite(logits.amax(-1)).all()):
            raise FloatingPointError("the logits are nan or inf: activations overflow; load the model in float32")
        chosen = logits.argmax(-1) if generator is None else _draw(logits, generator, temperature, top_k)
        out.append(chosen)
        new = chosen[:, None].to(new.device)
    return torch.stack(out, 1)


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
    C = kn.second_moment(model, 8, kn.sample_texts(model, 50_000, seed=0))
    ```

    Arguments:
        tokens: how many to draw; the last texts are not cut, so it becomes a few more.
        seed: of a generator of its own. Text n is the same whatever `tokens` is.
        start: each text goes on from these words, and holds them; `None` starts from the beginning-of-sequence token.
        length: tokens per text; one that the model ends sooner is shorter.
        rows: texts that are written at the same time. Another number gives other texts.
        temperature, top_k: as in `generate`.

    Raises:
        ValueError: no start and no BOS token; see also `generate`.
    """
    tokenizer, bos = model.tokenizer, model.tokenizer.bos_token_id
    ids = [] if bos is None else [bos]
    ids += tokenizer(start, add_special_tokens=False)["input_ids"] if start else []
    if not ids:
        raise ValueError("this tokenizer has no BOS token to start from; give start=, e.g. start='The'")
    generator = torch.Generator().manual_seed(seed)
    done, ends = 0, {tokenizer.eos_token_id, tokenizer.bos_token_id}
    while done < tokens:
        begun = torch.tensor([ids]).expand(rows, -1)
        new = generate(model, begun, length, generator=generator, temperature=temperature, top_k=top_k)
        for row in new.tolist():
            # A text that would be empty has its end as its only token: some chat models start with nothing else.
            kept = next((row[:n] for n, token in enumerate(row) if n and token in ends), row)
            if done < tokens:
                done += len(kept)
                yield (start or "") + tokenizer.decode(kept, skip_special_tokens=True)


def sample_templates(
    model: Any, count: int, *, seed: int, prepend_bos: bool | None = None, length: int = 8
) -> tuple[str, ...]:
    """`"{}"` and `count - 1` templates that the model begins with its own words, as released code makes them.

    ```python
    kn.rome(model, prompt, " Rome", layer=8, templates=10, seed=0)
    ```
    """
    if count < 1:
        raise ValueError(f"templates={count}; at least one is needed")
    found: list[str] = []
    for text in sample_texts(model, 1_000_000, seed=seed, start="The", length=length, top_k=20):
        if len(found) == count - 1:
            break
        words = " ".join(text.replace("{", "").replace("}", "").split())
        if words and words not in found:
            found.append(words)
    return ("{}", *(f"{words.rstrip('.')}. {{}}" for words in found))


def _draw(logits: Tensor, generator: torch.Generator, temperature: float, top_k: int | None) -> Tensor:
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[-1])).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
