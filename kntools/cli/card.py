"""`kntools card`: tokens, contexts and effects of neurons."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from kntools.attribution.neuron_card import neuron_card
from kntools.attribution.neuron_card_result import NeuronCard, cards_page
from kntools.cli.command import command
from kntools.cli.options import ModelOptions
from kntools.cli.output import Output, Sheet
from kntools.engine.sweep import sweep
from kntools.files import write
from kntools.prompts import Encoded, Prompt, encode, encode_each
from kntools.results.display import number
from kntools.sites import Neuron
from kntools.tokenisation import text_of

# Of the tokens that the model may say, the first that can be an answer is taken.
_TRIED = 100


@command
def card(
    neurons: Annotated[list[str], Argument(help="Names such as L24.N1005.")],
    options: ModelOptions,
    prompt: Annotated[str | None, Option(help="Also show the effect on the answer of this text.")] = None,
    target: Annotated[str | None, Option(help="The answer (default: the most probable token).")] = None,
    texts: Annotated[Path | None, Option(help="A file with one text per line: contexts of high activation.")] = None,
    run: Annotated[Path | None, Option(help="Save progress over the texts here, to resume.")] = None,
    k: Annotated[int, Option("-k", min=1, help="Number of promoted and suppressed tokens, and of contexts.")] = 10,
) -> Output:
    """Show the tokens that neurons promote, their contexts, and their effect in a prompt.

    Example: kntools card L24.N1005 --prompt "The capital of Canada is" --texts texts.txt
    """
    named = [Neuron.parse(name) for name in neurons]  # a mistake is found before the model is loaded
    if target is not None and prompt is None:
        raise ValueError("--target is the answer of a text; give --prompt too")
    if texts is not None and not texts.is_file():
        raise FileNotFoundError(f"no file {texts}; give one with a text per line")
    model = options.load()
    asked = None if prompt is None else Prompt(prompt, target or _answer(model, prompt), multi_token="first")
    cards = neuron_card(model, named, texts, prompt=asked, k=k, run=run)

    def pages(out: Path) -> list[Path]:
        saved = [one.save(out / f"{one.neuron!r}.safetensors") for one in cards]
        return [write(out / "index.html", cards_page(cards)), *saved]

    made = {name: value for name, value in cards[0].provenance.items() if name != "settings"}
    return Output({**made, "cards": [_json(one) for one in cards]}, [s for one in cards for s in _sheets(one)], pages)


def _answer(model: Any, text: str) -> str:
    """The most probable token that can be an answer to the text: it begins a word."""
    encoded = encode(model, Prompt(text, " a", multi_token="first"))
    words = [text_of(model.tokenizer, [i]) for i in sweep(model, encoded, [()])[0].topk(_TRIED).indices.tolist()]
    prompts = [Prompt(text, word) for word in words if word.strip()]
    for prompt, found in zip(prompts, encode_each(model, prompts), strict=True):
        if isinstance(found, Encoded):
            return prompt.target
    raise ValueError(f"none of the {_TRIED} most probable tokens after {text!r} is a word; give --target")


def _sheets(found: NeuronCard) -> list[Sheet]:
    frame = found.to_frame()
    sheets = [Sheet(found.describe(), frame.assign(token=frame["token"].map(repr)), [found.note] * bool(found.note))]
    tables = found.tables()
    sheets += [Sheet(name.replace("_", " "), tables[name]) for name in ("in_prompt", "activation") if name in tables]
    if found.contexts:
        lines = [f"{number(c.highest):>9}  {''.join(c.tokens[: c.peak])}>>{c.tokens[c.peak]}<<" for c in found.contexts]
        sheets.append(Sheet("most active in", notes=[" ".join(line.splitlines()) for line in lines]))
    return sheets


def _json(found: NeuronCard) -> dict[str, Any]:
    tables = {name: frame for name, frame in found.tables().items() if name != "contexts"}
    contexts = [{**vars(c), "activations": c.activations.tolist()} for c in found.contexts]
    return {"neuron": repr(found.neuron), "tokens": found.to_frame(), **tables, "contexts": contexts}
