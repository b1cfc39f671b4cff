"""What does this neuron do? The tokens that its value promotes, the texts that switch it on, its part in a prompt."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, overload

from kntools.arguments import shown, whole, without_effect
from kntools.attribution.baselines import activation
from kntools.attribution.direct_logit import direct_logit_attribution
from kntools.attribution.integrated_gradients import integrated_gradients
from kntools.attribution.neuron_activity import Activity
from kntools.attribution.neuron_card_result import Activation, Context, InPrompt, NeuronCard
from kntools.attribution.neuron_scan import neuron_scan
from kntools.engine.texts import Texts, check_context
from kntools.models import neuron_layers, unembedding
from kntools.prompts import Encoded, Prompt, encode_many
from kntools.results.provenance import provenance
from kntools.sites import Neuron, NeuronLike, is_one
from kntools.tokenisation import Tokenisation, text_of

_QUANTILES = (0.01, 0.1, 0.5, 0.9, 0.99, 0.999, 1.0)


@overload
def neuron_card(
    model: Any, neurons: Neuron | str | tuple[int, int], texts: Texts | None = None, **options: Any
) -> NeuronCard: ...
@overload
def neuron_card(
    model: Any, neurons: Iterable[NeuronLike], texts: Texts | None = None, **options: Any
) -> list[NeuronCard]: ...
def neuron_card(  # type: ignore[misc] # the signatures above only tell one card from several
    model: Any,
    neurons: NeuronLike | Iterable[NeuronLike],
    texts: Texts | None = None,
    *,
    prompt: Prompt | Encoded | None = None,
    k: int = 10,
    run: str | Path | None = None,
) -> NeuronCard | list[NeuronCard]:
    """Tokens that neurons promote and suppress, contexts of high activation, and effects in a prompt.

    ```python
    card = kn.neuron_card(model, "L24.N1005", texts, prompt=kn.Prompt("The capital of Canada is", " Ottawa"))
    card.suppressed                           # ((" capitals", -3.60), ...): active below 0, it promotes them
    cards = kn.neuron_card(model, att.top(20), pathlib.Path("texts.txt"))      # one pass over the texts
    ```

    A neuron is a key and a value (Geva et al. 2021). Its value is read through the final norm and the unembedding:

        weight_y = (W_out[i] * gain_final) . W_U[:, y]

    and through the gain of the norm behind the MLP too, where there is one (Gemma 2). No mean is taken away, and scales
    are left out: the order of tokens does not depend on them. Of a masked model `promoted` is empty and `note` says
    why: its head is not linear. Its key is where it is active: the `k` pieces of text with its highest activations.
    Special tokens do not count; quantiles are of all tokens, or of a random sample of 20,000.

    Arguments:
        neurons: a `Neuron`, its name or a `(layer, index)` pair; or several, which give a list.
        texts: a list, a file of one text per line (`pathlib.Path`), or rows with a `text` (a stream of `datasets`).
            Read once, for all neurons; a text longer than the context (or 512 tokens) is cut into pieces.
        prompt: also measure the effect of each neuron on the answer of this prompt.
        k: tokens on each side, and contexts.
        run: a file (`.safetensors`) that saves the progress over the texts: if interrupted, call again to resume.

    Raises:
        IndexError: a neuron that does not exist.
        ValueError: no neurons, no texts in `texts`, a layer without neurons; a `run` of other neurons, other weights or
            other texts.
    """
    k = whole("k", k, least=1)
    if texts is None:
        without_effect("without texts", run=run)
    chosen = neuron_layers.check_neurons(model, neurons)
    if not isinstance(prompt, Prompt | Encoded | None):
        raise TypeError(f"prompt={shown(prompt)}; give one kn.Prompt(text, answer)")
    about = provenance(model, k=k)
    values, note = _values(model, chosen, k)
    keys = [((), None)] * len(chosen) if texts is None else _keys(model, chosen, texts, k, run)
    parts = [None] * len(chosen) if prompt is None else _in_prompt(model, chosen, prompt)
    cards = [
        NeuronCard(n, **value, note=note, contexts=contexts, activation=active, in_prompt=part, provenance=about)
        for n, value, (contexts, active), part in zip(chosen, values, keys, parts, strict=True)
    ]
    return cards[0] if is_one(neurons) else cards


def _values(model: Any, neurons: Sequence[Neuron], k: int) -> tuple[list[dict[str, Any]], str]:
    """Promoted and suppressed tokens and their cosines, of each neuron; or why there are none."""
    try:
        matrix = unembedding.unembedding(model)
    except unembedding.NotLinear as error:
        none = dict.fromkeys(("promoted", "suppressed", "promoted_cosine", "suppressed_cosine"), ())
        return [none] * len(neurons), str(error)
    lengths = matrix.float().norm(dim=0)
    found: list[dict[str, Any]] = []
    for row in unembedding.value_rows(model, neurons).to(matrix.device):  # one by one: all logits of many are large
        weights = row @ matrix.float()
        cosines = weights / (row.norm() * lengths).clamp_min(1e-30)
        sides = {}
        for side, largest in (("promoted", True), ("suppressed", False)):
            leading = weights.topk(min(k, len(weights)), largest=largest).indices
            words = _words(model, leading.tolist())
            sides[side] = tuple(zip(words, weights[leading].tolist(), strict=True))
            sides[f"{side}_cosine"] = tuple(cosines[leading].tolist())
        found.append(sides)
    return found, ""


def _words(model: Any, ids: Iterable[int]) -> tuple[str, ...]:
    """Each token as text; its number, where the model has no tokenizer."""
    return tuple(f"<{i}>" if model.tokenizer is None else text_of(model.tokenizer, [i]) for i in ids)


def _keys(
    model: Any, neurons: Sequence[Neuron], texts: Texts, k: int, run: str | Path | None
) -> list[tuple[tuple[Context, ...], Activation | None]]:
    bos = bool(Tokenisation(model).before)
    about = provenance(model, neurons=[repr(n) for n in neurons], k=k, context=check_context(model, None), special=bos)
    activity = Activity(model, neurons, k, run, about)
    activity.read_texts(texts)
    quantiles = activity.quantiles(_QUANTILES)
    found: list[tuple[tuple[Context, ...], Activation | None]] = []
    for number, heap in enumerate(activity.peaks):
        contexts = tuple(
            Context(_words(model, p.ids), p.activations, p.peak, -p.text, p.first) for p in sorted(heap, reverse=True)
        )
        shares = dict(zip(map(str, _QUANTILES), quantiles[number].tolist(), strict=True))
        mean, active = float(activity.total[number]), int(activity.active[number])
        found.append((contexts, Activation(activity.tokens, mean / activity.tokens, active / activity.tokens, shares)))
    return found


def _in_prompt(model: Any, neurons: Sequence[Neuron], prompt: Prompt | Encoded) -> list[InPrompt]:
    [encoded] = encode_many(model, prompt)
    att, active = integrated_gradients(model, encoded, metric="probability"), activation(model, encoded)
    effects = neuron_scan(model, encoded, neurons, metric="probability").effect[0].tolist()
    try:
        scores = direct_logit_attribution(model, encoded, metric="logit").scores[0]
        direct: list[float | None] = [float(scores[n.layer, n.index]) for n in neurons]
    except unembedding.NotLinear:
        direct = [None] * len(neurons)
    return [
        InPrompt(
            prompt=encoded.prompt,
            activation=float(active.scores[0, n.layer, n.index]),
            integrated_gradient=float(att.scores[0, n.layer, n.index]),
            direct=contribution,
            effect=effect,
            probability=float(att.probability[0]),
        )
        for n, effect, contribution in zip(neurons, effects, direct, strict=True)
    ]
