"""What is done to a prompt before states are restored: noise on its subject, or the tokens of another prompt."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor

from kntools.engine.prompt_pairs import Pair
from kntools.prompts import Encoded, Prompt
from kntools.sites import Hook
from kntools.tracing.noise import Noise, make_noise, subject_embeddings


@dataclass(frozen=True)
class Corruption:
    """The corrupted runs of one prompt, one per sample of noise."""

    runs: list[Encoded]
    embedding: list[list[Hook]] | None  # of each run, hooks that add its noise
    subject: range
    first: int  # the first position that is not as in the clean run
    noise: Float[Tensor, "sample subject d_model"] | None = None
    noise_at: str | None = None
    prompt: Prompt | None = None  # whose tokens replace those of the clean prompt


def noisy(model: Any, encoded: Encoded, noise: Noise, samples: int, seed: int) -> Corruption:
    subject = subject_embeddings(model, encoded)
    added = make_noise(subject.embeddings, noise, samples, seed)
    hooks = [subject.add(sample) for sample in added]
    at = subject.positions
    return Corruption([encoded] * len(added), hooks, at, at[0], noise=added, noise_at=subject.place)


def replaced(pair: Pair) -> Corruption:
    """The run of the other prompt. Without a subject, the part that differs counts as the subject."""
    if not pair.differences:
        raise ValueError(f"corrupted={pair.corrupted.prompt.text!r} has the tokens of the clean prompt; give another")
    part = range(pair.differences[0], pair.differences[-1] + 1)
    subject = pair.clean.subject or part
    return Corruption([pair.corrupted], None, subject, part[0], prompt=pair.corrupted.prompt)
