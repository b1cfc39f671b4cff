"""Tokenizer, model and training loop. Everything random comes from one seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import BertConfig, BertForMaskedLM, BertTokenizer

from tiny_bert.batches import SENTENCES, Batches
from tiny_bert.text import vocabulary

STEPS, BATCH, PEAK_LR, WARMUP = 3000, 128, 2e-3, 150
EMBEDDING_LR = 4.0  # times PEAK_LR


def build_tokenizer() -> BertTokenizer:
    """A cased WordPiece tokenizer with whole words; anything else falls apart into characters."""
    return BertTokenizer(
        vocab={token: index for index, token in enumerate(vocabulary())},
        do_lower_case=False,
        strip_accents=False,
        model_max_length=64,
    )


def build_model(vocab_size: int, seed: int) -> BertForMaskedLM:
    """A standard BERT: exact GELU, tied decoder, no dropout (facts are to be memorised)."""
    config = BertConfig(
        vocab_size=vocab_size,
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=384,
        max_position_embeddings=64,
        initializer_range=0.05,
        hidden_act="gelu",
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return BertForMaskedLM(config)


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < WARMUP:
        return PEAK_LR * (step + 1) / WARMUP
    return PEAK_LR * 0.5 * (1 + math.cos(math.pi * (step - WARMUP) / max(1, steps - WARMUP)))


def train(
    seed: int,
    steps: int = STEPS,
    *,
    sentences: int = SENTENCES,
    report: Callable[[int, float], None] | None = None,
) -> tuple[BertForMaskedLM, BertTokenizer]:
    """Train from nothing. Same seed and steps, same model up to rounding."""
    tokenizer = build_tokenizer()
    model = build_model(len(tokenizer), seed).train()
    batches = Batches(tokenizer, seed, sentences)
    # Start from the words' frequencies, so that no step is spent on learning them.
    with torch.no_grad():
        model.cls.predictions.bias.copy_(batches.log_frequencies(len(tokenizer)))
    table = model.bert.embeddings.word_embeddings.weight
    matrices = [p for p in model.parameters() if p.ndim > 1 and p is not table]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [
            # A word is rare, so its row must move further each time than a matrix that every row passes.
            {"params": [table], "scale": EMBEDDING_LR, "weight_decay": 0.0},
            {"params": matrices, "scale": 1.0, "weight_decay": 0.03},
            {"params": vectors, "scale": 1.0, "weight_decay": 0.0},
        ],
        lr=PEAK_LR,
        betas=(0.9, 0.98),
    )
    stream = batches.stream(BATCH)
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, steps) * group["scale"]
        tokens, attention, labels = next(stream)
        hidden = model.bert(tokens, attention_mask=attention).last_hidden_state
        asked = labels != -100
        # Logits at the masked places alone: the vocabulary is the dearest matrix of so small a model.
        loss = torch.nn.functional.cross_entropy(model.cls(hidden[asked]), labels[asked])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if report is not None:
            report(step, loss.item())
    return model.eval(), tokenizer


def load(folder: Path) -> tuple[BertForMaskedLM, BertTokenizer]:
    """The shipped (or any retrained) folder."""
    return BertForMaskedLM.from_pretrained(folder).eval(), BertTokenizer.from_pretrained(folder)
