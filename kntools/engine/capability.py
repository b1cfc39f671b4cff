"""Which shortcuts a model allows: rows added half-way, a kept beginning, texts filled up, a few logits alone.

Asked of the model itself: a text of the prompt's length is run both ways and compared. That holds for architectures
that nobody has listed, and it is why a sweep's answer never depends on the shortcut taken.
"""

import warnings
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from kntools.engine.forward import ForwardPass, NotBatched, run_plain
from kntools.engine.memory import is_out_of_memory
from kntools.engine.plan import Intervention, Item, Pass
from kntools.hooks.positioned import PositionedHook
from kntools.models import adapter
from kntools.models.attachment import has_hooks
from kntools.models.causality import is_causal
from kntools.models.modules import all_modules, answers, look
from kntools.models.prefix import Prefix
from kntools.sites import hook_name


@dataclass(frozen=True)
class Capability:
    fork: bool  # rows may be added half-way
    prefix: bool = False  # keys and values of a prompt's beginning may be kept
    few_logits: bool = False  # the logits of some tokens may be made alone
    fill: bool = False  # tokens behind a text's end change nothing in it: texts of different lengths may share a pass


_ALL = Capability(fork=True, prefix=True, few_logits=True, fill=True)

# A probe has at least so many tokens: a shorter one takes nearly as long, and longer prompts need another.
_SHORTEST = 32
# Tokens of the vocabulary whose logits are made alone to see what becomes of them.
_PROBED = 1024


def capability(model: Any, tokens: Tensor, length: int | None = None) -> Capability:
    """Try it on the first prompt, and remember the answer for this model and runs of this length (the prompt's own).

    Rotary tables may depend on the length of a run: the probe is at least as long as the prompt. A model of which
    modules, their code or settings have changed since is asked again. While somebody else's hooks are attached to it,
    nothing is shared: they would see other batches, and fewer positions.
    """
    check_dropout(model)
    if has_hooks(model):
        return Capability(False)
    probe = probe_text(model, tokens[0], length or tokens.shape[1])
    look(model)
    known, key = answers(model), ("shortcuts", probe.shape[1])
    if _ALL in of_longer(known, *key):
        return _ALL
    if key not in known:
        try:
            found = _compare(model, probe)
        except (MemoryError, *PROBE_ERRORS) as error:
            found = None if is_out_of_memory(error) else Capability(False)
        if found is None:  # that says nothing about the model: ask again next time
            return Capability(False)
        if not found.fork and not of_longer(known, "shortcuts", 0):
            warnings.warn(
                f"{type(model).__name__} of this architecture cannot share a forward pass between interventions; "
                "each runs on its own: same numbers, but slower",
                stacklevel=4,
            )
        known[key] = found
    can: Capability = known[key]
    return can


def of_longer(known: Mapping[Hashable, Any], question: str, length: int) -> list[Any]:
    """What is known of a question from probes of more than `length` tokens."""
    return [known[key] for key in known if isinstance(key, tuple) and key[0] == question and key[1] > length]


def probe_text(model: Any, tokens: Int[Tensor, " pos"], length: int) -> Int[Tensor, "1 probe"]:
    """The prompt again and again, up to a power of two of at least `length`: at least four different tokens."""
    words = int(model.cfg.d_vocab)
    text = tokens if len(tokens) >= 4 else torch.cat([tokens, *[(tokens[:1] + k) % words for k in range(1, 4)]])
    size = min(adapter.context_length(model), max(_SHORTEST, 1 << (length - 1).bit_length()))
    return text.repeat(-(-size // len(text)))[None, :size]


def check_dropout(model: Any) -> None:
    """Raise if the model drops values at random: it is in training mode, and no rate is zero."""
    for module in all_modules(model):
        if not module.training:
            continue
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            rates = [module.p]
        else:  # the rate of a dropout that is no module of its own
            rates = [rate for key, rate in vars(module).items() if "dropout" in key and isinstance(rate, float)]
        if any(rate > 0 for rate in rates):
            raise ValueError(
                f"the model is in training mode, and its {type(module).__name__} drops {max(rates):.0%} of its values "
                "at random: no two runs are the same; call model.eval() first"
            )


#: What an unknown architecture may raise on a shortcut; the plain loop does not need it.
PROBE_ERRORS = (NotBatched, RuntimeError, ValueError, TypeError, AttributeError, KeyError, IndexError, AssertionError)


def works(shortcut: Callable[[], bool]) -> bool:
    """Does a shortcut give the same? One that fails does not; running out of memory says nothing, and is raised."""
    try:
        return shortcut()
    except PROBE_ERRORS as error:
        if is_out_of_memory(error):
            raise
        return False


@torch.no_grad()
def _compare(model: Any, tokens: Int[Tensor, "1 pos"]) -> Capability | None:
    """Each shortcut with runs without it, on two texts: what blocks read beside the stream must follow its row."""
    last = tokens.shape[1] - 1
    texts = torch.cat([tokens, (tokens + 1) % int(model.cfg.d_vocab)])
    asked = sorted({min(1, last), last // 2, last})
    # Seen in every layer, also through a norm behind it: the entries of the last token's state in reverse order.
    flip = PositionedHook(-1, lambda x: x.flip(-1), "reverse")
    layers = adapter.n_layers(model)
    items = [
        Item(number, Intervention([(hook_name("resid_post", layer), flip)], prompt=number % 2), layer, 0)
        for number, layer in enumerate((0, layers // 2, layers - 1))
    ]
    alone = torch.cat([run_plain(model, texts, [asked] * 2, item).logits[item.number] for item in items])
    if bool(alone.isnan().any()):
        return None

    @cache
    def beginning() -> Prefix:
        return adapter.build_prefix(model, texts[:, :last])

    def same(start: int, chosen: list[Item] = items) -> bool:
        """Do these items in one pass over the tokens from `start` on give the same logits?"""
        at = [p for p in asked if p >= start]
        prefix = beginning().before(start) if start else None
        found = ForwardPass(model, texts, [at] * 2, Pass(start, chosen), prefix).run().logits
        expected = alone[[i.number for i in chosen]][:, [asked.index(p) for p in at]]
        return close(torch.cat([found[i.number] for i in chosen]), expected)

    if not works(lambda: same(0)):
        return Capability(False)
    whole, causal, first = adapter.run(model, tokens)[0], is_causal(model), asked[0]

    def begun(p: int) -> bool:
        """Are the logits at position p the same where the text ends there?"""
        return close(adapter.run(model, tokens[:, : p + 1])[0, p], whole[p])

    few = causal and works(lambda: _makes_few(model, tokens[:, : first + 1], whole[first]))
    fill = causal and (few or begun(first)) and all(begun(p) for p in asked[1:-1])
    few = few or works(lambda: _makes_few(model, tokens, whole[first], first))
    # One prompt alone is embedded from where its pass starts; several are embedded whole.
    starts = {last // 2: items, last: items[::2]}
    prefix = fill and last > 0 and works(lambda: all(same(start, chosen) for start, chosen in starts.items() if start))
    return Capability(True, prefix=prefix, few_logits=few, fill=fill)


def _makes_few(model: Any, tokens: Int[Tensor, "1 pos"], whole: Float[Tensor, " d_vocab"], at: int = -1) -> bool:
    """Are the logits of some tokens what they are among all? The model may change them by their place."""
    spaced = list(range(0, len(whole), max(1, len(whole) // _PROBED)))
    half = len(spaced) // 2
    vocab_ids = spaced[half:] + spaced[:half]  # none stands where it stands among all
    found = adapter.run(model, tokens, vocab_ids=vocab_ids)[0, at]
    expected = whole[vocab_ids]
    loose = 1e-4 if whole.dtype in (torch.float32, torch.float64) else 1e-2
    # Rounding follows the size of most logits: one of -1e9, of a token that is never said, must not excuse others.
    size = float(whole.abs().float().median())
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=loose, atol=loose * size)


def close(found: Float[Tensor, "... d_vocab"], expected: Float[Tensor, "... d_vocab"]) -> bool:
    """Do logits differ by rounding alone?"""
    return distance(found, expected) <= (2e-4 if expected.dtype in (torch.float32, torch.float64) else 2e-2)


def distance(found: Float[Tensor, "... d_vocab"], expected: Float[Tensor, "... d_vocab"]) -> float:
    """How far logits are off at the worst position, as a share of how far those of a position lie apart."""
    # A logit of -1e9, of a token that is never said, must not excuse others.
    a, b = (x.float().log_softmax(-1).clamp(min=-50) for x in (found, expected))
    apart = (b - b.mean(-1, keepdim=True)).norm(dim=-1).clamp(min=1e-30)  # logits may all be equal
    return float(((a - b).norm(dim=-1) / apart).max())
