"""Text that the model itself writes, drawn by generators of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kntools.engine.inputs import as_batch
from kntools.engine.memory import is_out_of_memory
from kntools.models import adapter
from kntools.models.attachment import has_hooks
from kntools.models.causality import is_masked
from kntools.models.tokenizers import tokenizer_of
from kntools.options import options, progress_bar
from kntools.prompts import Encoded, Prompt, PromptLike, Prompts, encode_many

#: From the logits of the next token to the token, for each row.
Choose = Callable[[Float[Tensor, "row d_vocab"]], Int[Tensor, " row"]]


def generate(
    model: Any,
    prompts: Prompts | str | Sequence[PromptLike | str] | Int[Tensor, "row pos"],
    *,
    max_new_tokens: int = 32,
    temperature: float = 0.0,
    seed: int = 0,
    top_k: int | None = None,
) -> Any:
    """What the model goes on to write.

    ```python
    kn.generate(model, "The capital of Canada is")                              # the most probable tokens, as text
    kn.generate(model, [prompt, other], max_new_tokens=8)                       # a list of texts
    kn.generate(model, model.to_tokens(text).expand(5, -1), temperature=1.0)    # five drawn ones, as token ids
    ```

    Arguments:
        prompts: texts or prompts, of any lengths; or token ids of equal length. A prompt's own answer plays no part.
        max_new_tokens: how many tokens to write.
        temperature: 0 takes the most probable token each time; above 0 divides the logits, and tokens are drawn.
        seed: row n draws with a generator of its own, seeded with `seed + n`.
        top_k: draw among so many of the most probable tokens only.

    Returns:
        For a text or prompt what follows it, up to the model's end-of-text token (for several a list); for token ids
        all new ones, `[row new]`.

    Raises:
        ValueError: a masked model, a text that would outgrow the context, an argument out of range.
        FloatingPointError: logits that are nan or inf.
    """
    _check(model, max_new_tokens, temperature, top_k)
    single = isinstance(prompts, str | Prompt | Encoded)
    as_ids = isinstance(prompts, Tensor)
    rows = list(as_batch(model, prompts)) if isinstance(prompts, Tensor) else _tokens(model, prompts)
    written: dict[int, Tensor] = {}
    for part in _parts([len(row) for row in rows]):
        choose = _chooser(temperature, top_k, [seed + n for n in part])
        new = _write(model, torch.stack([rows[n] for n in part]), max_new_tokens, choose)
        written.update(zip(part, new, strict=True))
    if as_ids:
        return torch.stack([written[n] for n in range(len(rows))])
    texts = [_text(model.tokenizer, written[n].tolist()) for n in range(len(rows))]
    return texts[0] if single else texts


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

    Arguments:
        tokens: how many to draw; the last texts are not cut, so it becomes a few more.
        seed: of a generator of its own. Text n is the same whatever `tokens` is.
        start: each text goes on from these words, and holds them; `None` starts from the beginning-of-sequence token.
        length: tokens per text; one that the model ends sooner is shorter.
        rows: texts that are written at the same time. Another number gives other texts.
        temperature, top_k: as in `generate`; the temperature must be above 0.

    Raises:
        ValueError: no start and no BOS token; see also `generate`.
    """
    _check(model, length, temperature, top_k)
    if temperature == 0:
        raise ValueError("temperature=0 writes the same text again and again; give one above 0")
    tokenizer = tokenizer_of(model)
    bos = tokenizer.bos_token_id
    ids = [] if bos is None else [bos]
    ids += tokenizer(start, add_special_tokens=False)["input_ids"] if start else []
    if not ids:
        raise ValueError("this tokenizer has no BOS token to start from; give start=, e.g. start='The'")
    begun = torch.tensor([ids], device=adapter.device_of(model)).expand(rows, -1)
    generator = torch.Generator().manual_seed(seed)
    done, ends = 0, {tokenizer.eos_token_id, tokenizer.bos_token_id}
    while done < tokens:
        new = _write(model, begun, length, lambda logits: _draw(logits, generator, temperature, top_k))
        for row in new.tolist():
            # A text that would be empty has its end as its only token: some chat models start with nothing else.
            kept = next((row[:n] for n, token in enumerate(row) if n and token in ends), row)
            if done < tokens:
                done += len(kept)
                yield (start or "") + tokenizer.decode(kept, skip_special_tokens=True)


def sample_templates(model: Any, count: int, *, seed: int, length: int = 8) -> tuple[str, ...]:
    """`"{}"` and `count - 1` templates that the model begins with its own words, as released code makes them.

    ```python
    kn.rome(model, prompt, " Rome", layer=8, settings=RomeSettings(templates=10, seed=0))
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


def _check(model: Any, new: int, temperature: float, top_k: int | None) -> None:
    if is_masked(model):
        raise ValueError(
            "a masked model does not continue texts; ask what stands at its mask: kn.sweep(model, prompt, [[]])"
        )
    if new < 1 or not temperature >= 0 or (top_k is not None and top_k < 1):
        raise ValueError(
            f"{new} new tokens, temperature={temperature}, top_k={top_k}; "
            "give at least 1 token, a temperature of at least 0, and a top_k of at least 1"
        )


def _tokens(model: Any, prompts: Prompts | str | Sequence[PromptLike | str]) -> list[Int[Tensor, " pos"]]:
    """The tokens of each text, without an answer."""
    listed = [prompts] if isinstance(prompts, str | Prompt | Encoded) else prompts
    # A text is encoded as a prompt is, whatever its answer would be.
    asked = [Prompt(p, " the", multi_token="first") if isinstance(p, str) else p for p in listed]
    return [e.tokens[0, : e.position + 1] for e in encode_many(model, asked)]


def _parts(lengths: Sequence[int]) -> list[list[int]]:
    """Which rows are written together: those of equal length, `max_rows` at a time."""
    groups = [[n for n, other in enumerate(lengths) if other == length] for length in dict.fromkeys(lengths)]
    most = options().max_rows or len(lengths)
    return [group[start : start + most] for group in groups for start in range(0, len(group), most)]


def _text(tokenizer: Any, ids: list[int]) -> str:
    """Up to the end that the model sets."""
    end = ids.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in ids else len(ids)
    return str(tokenizer.decode(ids[:end]))


# --- one token after the other ------------------------------------------------------------------------------


@torch.no_grad()
def _write(model: Any, tokens: Int[Tensor, "row pos"], count: int, choose: Choose) -> Int[Tensor, "row count"]:
    """Continue texts of equal length by `count` tokens."""
    limit = adapter.context_length(model)
    if tokens.shape[1] + count > limit:
        raise ValueError(f"{tokens.shape[1]} tokens and {count} more; the model's context holds {limit}")
    step = adapter.Steps(model, tokens.shape[0]) if _can_step(model, tokens) else _WholeRuns(model)
    new, out = tokens, []
    with progress_bar(count, "token") as bar:
        for _ in range(count):
            logits = step(new)[:, -1].float().cpu()
            if not bool(torch.isfinite(logits.amax(-1)).all()):
                raise FloatingPointError("the logits are nan or inf: activations overflow; load the model in float32")
            out.append(choose(logits))
            new = out[-1][:, None].to(tokens.device)
            bar.update()
    return torch.stack(out, 1)


class _WholeRuns:
    """One run of the whole text after the other; the counterpart of `adapter.Steps`, which keeps keys and values."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.tokens: Tensor | None = None

    def __call__(self, new: Int[Tensor, "row new"]) -> Float[Tensor, "row pos d_vocab"]:
        self.tokens = new if self.tokens is None else torch.cat([self.tokens, new], 1)
        return adapter.run(self.model, self.tokens)


_steps: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def _can_step(model: Any, tokens: Int[Tensor, "row pos"]) -> bool:
    """Does a step with kept keys and values give the logits of a run of the whole text?

    The model is asked once, on the first text. A model with hooks of the user's runs whole texts: the hooks may act at
    certain positions.
    """
    if has_hooks(model):
        return False
    if model not in _steps:
        probe = tokens[:1] if tokens.shape[1] > 1 else tokens[:1].expand(1, 2)
        same = _steps_are_right(model, probe)
        if model.training:  # dropout says nothing about what the model can do
            return same
        _steps[model] = same
    return _steps[model]


def _steps_are_right(model: Any, tokens: Int[Tensor, "1 pos"]) -> bool:
    step = adapter.Steps(model, 1)
    try:
        step(tokens[:, :-1])
        stepped = step(tokens[:, -1:])[0, -1]
    except (RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, AssertionError) as error:
        if is_out_of_memory(error):
            raise
        return False  # whatever an unknown architecture stumbles over: whole runs do not need it
    whole = adapter.run(model, tokens)[0, -1]
    loose = 1e-3 if whole.dtype in (torch.float32, torch.float64) else 0.2
    found, expected = (logits.float().log_softmax(-1) for logits in (stepped, whole))
    return torch.allclose(found, expected, rtol=loose, atol=loose, equal_nan=True)


# --- which token --------------------------------------------------------------------------------------------


def _chooser(temperature: float, top_k: int | None, seeds: Sequence[int]) -> Choose:
    """The most probable token, or one that each row draws by itself."""
    if temperature == 0:
        return lambda logits: logits.argmax(-1)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def choose(logits: Tensor) -> Tensor:
        rows = zip(logits.split(1), generators, strict=True)
        return torch.cat([_draw(row, generator, temperature, top_k) for row, generator in rows])

    return choose


def _draw(
    logits: Float[Tensor, "row d_vocab"], generator: torch.Generator, temperature: float, top_k: int | None
) -> Int[Tensor, " row"]:
    least = logits.topk(min(top_k or logits.shape[-1], logits.shape[-1])).values[:, -1:]
    left = logits.masked_fill(logits < least, -torch.inf)
    return torch.multinomial((left / temperature).softmax(-1), 1, generator=generator)[:, 0]
