"""Every result has a short text for the prompt and a small table for a notebook, in which a text is only a text."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from typing import Any

import pandas as pd
import pytest

import kntools as kn
from kntools.analyses.edit_cases import Case, Question
from kntools.analyses.edit_methods import values_method
from kntools.analyses.fig01_attribution_profile import attribution_profile
from kntools.analyses.fig02_pair_search import pair_search
from kntools.analyses.fig03_localisation import localisation
from kntools.analyses.fig04_layer_distribution import layer_distribution
from kntools.analyses.fig05_suppression_effect import suppression_effect
from kntools.analyses.fig06_cooccurrence_bias import cooccurrence_bias
from kntools.analyses.fig07_probability_shift import probability_shift
from kntools.analyses.fig08_reliability import reliability
from kntools.analyses.fig09_tracing_profile import tracing_profile
from kntools.analyses.fig10_edit_examples import edit_examples
from kntools.analyses.fig11_edit_consistency import edit_consistency
from kntools.analyses.forgetting import forgetting_curve
from kntools.analyses.hase_regression import TracingAndEditing
from kntools.analyses.layer_choice import EditLayer
from kntools.analyses.method_comparison import selection_methods
from kntools.analyses.neuron_transfer import transfer
from kntools.analyses.planted_knowledge import planted_facts
from kntools.analyses.prompt_group import PromptGroup
from kntools.data.records import Loaded, Skipped
from kntools.editing.rome_settings import RomeSettings
from kntools.editing.weight_edits import WeightEdit
from kntools.engine.text_measurement import Checkpoint
from kntools.results import display
from kntools.results.result import Result
from kntools.results.table import Table
from tests import planted, zoo
from tests.analyses.test_edit_consistency import SHORT

EVIL = "<script>alert('1')</script> &"
PROMPT = kn.Prompt(f"{EVIL} Italy and this", " book", subject="Italy", foil=" books")
PAIRS = [kn.Prompt(f"{EVIL} {frame} this", " book", foil=" books") for frame in planted.FRAMES]
GROUPS = [
    PromptGroup(
        key=f"{d} {n}",
        source=EVIL,
        kind="linguistic",
        prompts=tuple(kn.Prompt(f"{EVIL} {frame} {d}", f" {n}") for frame in planted.FRAMES),
        labels=(("determiner", d), ("noun", n), ("number", number)),
    )
    for d, n, number in (("this", "book", "singular"), ("those", "books", "plural"))
]
CASE = Case(
    EVIL,
    PROMPT,
    " books",
    tuple(
        Question(f"rewrite {which}", PROMPT.text, f" {word}") for which, word in (("new", "books"), ("true", "book"))
    ),
    PROMPT.text,
)
METHOD = f"erase {EVIL}"


@pytest.fixture(scope="module")
def model() -> Iterator[Any]:
    """Its name stands in almost every result."""
    made = zoo.fresh("llama")
    made.cfg.model_name = f"tiny {EVIL}"
    with kn.set_options(progress=False):
        yield made


def shift_of(m: Any) -> Any:
    return probability_shift(m, {EVIL: PAIRS}, [planted.SINGULAR], words=["book", "books", "cat"])


def effect_of(m: Any) -> Any:
    return suppression_effect(m, {EVIL: PAIRS}, [planted.SINGULAR], words=["book", "books", "cat"])


def gradients_of(m: Any) -> kn.RowGradients:
    run = kn.Intervention((), wrt=[("blocks.1.mlp.hook_post", -1)])
    return kn.sweep_gradients(m, kn.encode(m, PROMPT).tokens, [run], kn.probability(5))[0]


def traced_and_edited(model: Any) -> Any:
    facts = [(f"{EVIL}{n}", 0, 0.1 * n, 0.2 * n * n) for n in range(3)]
    frame = pd.DataFrame(facts, columns=["fact", "layer", "effect", "success"])
    return TracingAndEditing(frame, {"model": EVIL, "fingerprint": "", "settings": {}, "versions": {}})


def edited_by_layer(model: Any) -> Any:
    scores = ("efficacy", "paraphrase", "neighborhood", "efficacy magnitude", "neighborhood magnitude")
    rows = [
        {"layer": layer, "case": f"{EVIL}{n}", **dict.fromkeys(scores, n / 2)} for layer in (0, 1) for n in range(3)
    ]
    details = {"proposed": 1, "traced": 2, "effects": [0.1, 0.2]}
    return EditLayer.of(rows, {"model": EVIL, "fingerprint": "", "settings": {}, "versions": {}}, **details)


COUNTS = {word: {"plural": n + 10, "singular": 20 - n} for n, word in enumerate(("book", "books", "cat"))}
RESULTS: dict[str, Callable[[Any], Any]] = {
    "Encoded": lambda m: kn.encode(m, PROMPT),
    "RowGradients": gradients_of,
    "Derivative": lambda m: gradients_of(m).wrt["blocks.1.mlp.hook_post"],
    "Attribution": lambda m: kn.integrated_gradients(m, PAIRS * 3),
    "KnowledgeNeurons": lambda m: kn.knowledge_neurons(kn.integrated_gradients(m, PAIRS)),
    "NeuronScan": lambda m: kn.neuron_scan(m, PROMPT, layers=1),
    "NeuronCard": lambda m: kn.neuron_card(m, (1, 3), [PROMPT.text], prompt=PROMPT),
    "FaithfulnessCurve": lambda m: kn.faithfulness(m, PAIRS, kn.activation(m, PAIRS)),
    "PatchGrid": lambda m: kn.activation_patch(m, PAIRS[0], PAIRS[0], site="resid_pre", metric=None),
    "Trace": lambda m: kn.causal_trace(m, PROMPT, samples=1),
    "SecondMoment": lambda m: kn.second_moment(m, 1, [PROMPT.text]),
    "RankOneEdit": lambda m: kn.rome(m, PROMPT, " books", layer=1, settings=RomeSettings(steps=2, templates=["{}"])),
    "JointEdit": lambda m: kn.emmet(m, PROMPT, " books", layers=1, settings=RomeSettings(steps=2, templates=["{}"])),
    "LayerEdit": lambda m: kn.fine_tune(m, PROMPT, " cat", layer=1, steps=1),
    "TracingProfile": lambda m: tracing_profile(
        m, [PROMPT], sever=("mlp", "attn"), window=1, samples=1, known_only=False
    ),
    "AttributionProfile": lambda m: attribution_profile(m, {EVIL: PAIRS}),
    "ProbabilityShift": shift_of,
    "SuppressionEffect": effect_of,
    "CooccurrenceBias": lambda m: cooccurrence_bias(effect_of(m), COUNTS, sections=None),
    "PairSearch": lambda m: pair_search(m, GROUPS),
    "Localisation": lambda m: localisation(m, GROUPS, null=None),
    "LayerDistribution": lambda m: layer_distribution({EVIL: [[planted.SINGULAR]], "b": [[(0, 1)]]}, n_layers=4),
    "Reliability": lambda m: reliability(m, {EVIL: PAIRS}, edits=["suppress"], correct_only=False),
    "SelectionMethods": lambda m: selection_methods(m, {EVIL: PAIRS[:2]}, methods={EVIL: kn.activation}),
    "Transfer": lambda m: transfer(m, {EVIL: PAIRS}, [planted.SINGULAR]),
    "PlantedFacts": lambda m: planted_facts(m, [PROMPT], methods={EVIL: kn.activation}, until=0.01, draws=1),
    "EditExamples": lambda m: edit_examples(
        m, kn.fine_tune(m, PROMPT, " cat", layer=1, steps=1), {EVIL: [PROMPT.text] * 20}, max_new_tokens=1
    ),
    "EditConsistency": lambda m: edit_consistency(m, [CASE], {METHOD: values_method(3)}, continuations=SHORT),
    "ForgettingCurve": lambda m: forgetting_curve(m, [CASE], {METHOD: values_method(3)}, counts=[1]),
    "TracingAndEditing": traced_and_edited,
    "EditLayer": edited_by_layer,
    "Loaded": lambda m: Loaded(tuple(GROUPS * 20), Skipped.of([EVIL]), EVIL),
    "PromptSet": lambda m: kn.data.PromptSet(tuple(PAIRS), tuple(PAIRS), ("",) * len(PAIRS), Skipped(), EVIL),
}
#: Those that show no text of the user's.
NUMBERS_ALONE = {"RowGradients", "KnowledgeNeurons"}
#: What users give, bases, and a checkpoint.
NO_RESULTS = {
    kn.Prompt,
    kn.Intervention,
    kn.Neuron,
    kn.set_options,
    Result,
    WeightEdit,
    Table,
    Checkpoint,
}


class Balanced(HTMLParser):
    """Fails where a tag is closed that is not the last one opened."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()
        self.rows: list[int] = []  # cells of each
        self.feed(html)
        self.close()
        assert self.open == [], "not closed"

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.open.append(tag)
        self.seen.add(tag)
        if tag == "tr":
            self.rows.append(0)
        elif tag in ("td", "th"):
            self.rows[-1] += 1

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.filterwarnings("ignore:.*it has not taken")  # an edit of a random model, in two steps
@pytest.mark.parametrize("kind", RESULTS)
def test_results_are_short_and_safe(kind: str, model: Any) -> None:
    result = RESULTS[kind](model)
    assert type(result).__name__ == kind
    text = repr(result)
    assert len(text) > 10 and len(text.splitlines()) < 40
    assert (result == result) is True and (result == "another") is False
    if hasattr(result, "plot"):
        layout = result.plot(title="mine", width=500, height=333, colorscale="Viridis").layout
        assert (layout.title.text, layout.width, layout.height) == ("mine", 500, 333)
    if kind == "Derivative":
        return  # two tensors of RowGradients, which has the table
    html = result._repr_html_()
    found = Balanced(html)
    own = {"div", "h3", "code", "ol", "li", "span", "b"} if kind == "NeuronCard" else set()
    assert found.seen <= {"p", "table", "thead", "tbody", "tr", "th", "td"} | own, "text became markup"
    # A card has a table for what the neuron writes and one for what it does in the prompt.
    assert (own or len(set(found.rows)) == 1) and 1 <= len(found.rows) <= 45, "rows of one table, of one length"
    assert ("&lt;script&gt;" in html) == (kind not in NUMBERS_ALONE) and len(html) < 20_000


LONG = ["Encoded", "NeuronScan", "Trace", "PatchGrid", "RankOneEdit", "JointEdit", "LayerEdit", "Attribution"]


@pytest.mark.filterwarnings("ignore:.*it has not taken", "ignore:.*below 0.5 after the edit")
@pytest.mark.parametrize("kind", LONG)
def test_a_long_prompt_is_not_printed_whole(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    long = zoo.fresh("llama")
    long.cfg.n_ctx = 4096  # its positions are rotary
    text = "word " * 60
    monkeypatch.setattr(f"{__name__}.PROMPT", kn.Prompt(f"{text}Italy and this", " book", subject="Italy"))
    monkeypatch.setattr(f"{__name__}.PAIRS", [kn.Prompt(f"{text}{frame} this", " book") for frame in planted.FRAMES])
    with kn.set_options(progress=False):
        result = RESULTS[kind](long)
    lines = repr(result).splitlines()
    assert max(map(len, lines)) < 250 and len(lines) < 30
    assert ("this' -> ' book" in repr(result)) == (kind not in ("PatchGrid", "JointEdit", "Attribution", "LayerEdit"))


def test_every_result_is_here() -> None:
    """Whatever can become a table of pandas, and every class of the public face."""
    public = {x for x in (getattr(kn, name) for name in kn.__all__) if isinstance(x, type)}
    for found in pkgutil.walk_packages(kn.__path__, "kntools."):
        if not found.name.endswith("__main__"):
            module = importlib.import_module(found.name)
            public |= {x for x in vars(module).values() if isinstance(x, type) and hasattr(x, "to_frame")}
    ours = {x for x in public if x.__module__.startswith("kntools.")}
    assert {x.__name__ for x in ours - NO_RESULTS} <= set(RESULTS)


def test_a_table_by_hand() -> None:
    frame = pd.DataFrame({"<one>": ["<i>", "x" * 200], "two": [0.123456, 1.0], "three": [7, 8]})
    html = display.html("a & b", frame)
    assert html.startswith("<p>a &amp; b</p><table") and html.endswith("</table>")
    assert "<th>&lt;one&gt;</th>" in html and "<td>&lt;i&gt;</td>" in html and "x" * 50 in html
    assert "x" * 120 not in html and "0.123" in html and "<td>7</td>" in html
    text = display.text("a & b", frame)
    assert text.splitlines()[0] == "a & b" and "x" * 120 not in text and "0.123" in text
    many = pd.DataFrame({"n": range(25), "x": 0.5})
    assert len(display.text("t", many).splitlines()) == 23 and display.text("t", many).endswith("... and 5 more")
    assert display.html("t", many).endswith("</table><p>... and 5 more</p>") and "more" not in display.text(
        "t", many[:20]
    )
    assert display.html("t", many, rows=7).endswith("<p>... and 18 more</p>")
    assert display.text("t", many[:0]) == "t\n(no rows)" and display.html("t", pd.DataFrame()).startswith(
        "<p>t</p><table"
    )
