"""Commands of `kntools figure`: one analysis of Niu et al. 2024 each."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from typer import Argument, Option

from kntools import analyses
from kntools.analyses.fig05_suppression_effect import Definition
from kntools.analyses.fig08_reliability import EDITS
from kntools.analyses.fig09_tracing_profile import TRACED, Traced
from kntools.analyses.method_comparison import METHODS
from kntools.analyses.neuron_search import Null, beside
from kntools.analyses.neuron_search import check_neurons as in_model
from kntools.analyses.prompt_group import is_relation
from kntools.arguments import check_distinct, without_effect
from kntools.attribution.ablation import AblationName
from kntools.cli.analysis import RunOptions, Search, choose, result_output
from kntools.cli.command import command
from kntools.cli.options import ModelOptions, Options, changed
from kntools.cli.output import Output
from kntools.results.result import Result, load
from kntools.sites import as_neurons
from kntools.tracing.restoration import KINDS, Severed

Sources = Annotated[list[str], Argument(help="BLiMP paradigms and ParaRel relations.")]
Paradigm = Annotated[str, Argument(help="A BLiMP paradigm of determiners and nouns.")]
Count = Annotated[int, Option(min=1, help="Neurons per prompt: those with its highest scores.")]
SomeNeurons = Annotated[list[str] | None, Option("--neuron", "-n", help="A neuron; may be repeated.")]
Limit = Annotated[int, Option(min=1, help="Number of prompts, pairs or facts of each source.")]
MethodNames = Annotated[list[str] | None, Option("--method", help=f"{', '.join(METHODS)}; may be repeated (all).")]
Number = Literal["singular", "plural"]


@dataclass(frozen=True, kw_only=True)
class Groups:
    """Which groups of prompts are searched."""

    frames: Annotated[int, Option(min=1, help="Sentences per pair of words.")] = 10
    known: Annotated[bool, Option("--known", help="Only pairs and facts that the model answers correctly.")] = False

    def load(self, model: Any, sources: list[str], limit: int | None, seed: int) -> list[analyses.PromptGroup]:
        check_distinct("source", sources)
        how: dict[str, Any] = {"frames": self.frames, "limit": limit, "seed": seed, "known_only": self.known}
        return [group for source in sources for group in analyses.prompt_groups(model, source, **how)]


def prepared(options: RunOptions, sources: list[str], neurons: list[str] | None = None) -> tuple[Any, Any]:
    """The model and the neurons, if there are any; a wrong name is an error before the model is loaded."""
    for name in sources:
        is_relation(name)  # an error for an unknown name
    named = as_neurons(neurons or ())
    model = options.load()
    return model, in_model(model, named) if named else None


@dataclass(frozen=True, kw_only=True)
class Suppressed:
    """Which neurons are suppressed, and before which nouns."""

    neuron: Annotated[list[str], Option("--neuron", "-n", help="A neuron, e.g. L9.N1094; may be repeated.")]
    limit: Limit = 200
    factor: Annotated[float, Option(help="Factor of the activations.")] = 0.0
    found_by: Annotated[
        Path | None, Option(help="Result of kntools figure pair_search: leave out the nouns that selected its neurons.")
    ] = None

    def load(self, options: RunOptions, paradigm: str) -> tuple[Any, Any, Any]:
        """The model, the prompts and the neurons."""
        model, neurons = prepared(options, [paradigm], self.neuron)
        without = load(self.found_by, analyses.PairSearch).nouns("selection") if self.found_by else ()
        how: dict[str, Any] = {"limit": self.limit, "without": without, "seed": options.seed}
        return model, analyses.noun_prompts(model, paradigm, **how), neurons


def chosen_methods(names: list[str] | None) -> dict[str, Any] | None:
    return {name: METHODS[name] for name in choose("method", names, tuple(METHODS))} if names else None


@command
def attribution_profile(
    source: Annotated[str, Argument(help="A BLiMP paradigm or a ParaRel relation.")],
    options: RunOptions,
    search: Search,
    limit: Limit = 100,
    classes: Annotated[int, Option(min=1, help="Answers, the most frequent ones.")] = 8,
) -> Result:
    """Mean scores of neurons by answer."""
    model, _ = prepared(options, [source])
    prompts = analyses.by_answer(model, source, limit=limit, classes=classes, seed=options.seed)
    return analyses.attribution_profile(model, prompts, settings=search.settings, **options.shared)


@command
def pair_search(
    paradigm: Paradigm,
    options: RunOptions,
    search: Search,
    chosen: Groups,
    limit: Annotated[int | None, Option(min=1, help="Number of pairs (default: all).")] = None,
    neuron: SomeNeurons = None,
) -> Output:
    """Determiner-noun pairs in which each neuron is a knowledge neuron.

    Example: kntools figure 2 determiner_noun_agreement_2 --model bert-base-cased --paper --neuron L9.N1094
    """
    model, marked = prepared(options, [paradigm], neuron)
    groups = chosen.load(model, [paradigm], limit, options.seed)
    found = analyses.pair_search(model, groups, settings=search.settings, **options.shared)
    return result_output(found, options, tables={"claims": found.claims(), "shares": found.shares(marked)})


@command
def localisation(
    sources: Sources,
    options: RunOptions,
    search: Search,
    chosen: Groups,
    limit: Limit = 30,
    null: Annotated[Null, Option(help="Null: random neurons, shuffled answers, or shuffled foils.")] = "neurons",
    neuron: SomeNeurons = None,
) -> Output:
    """Number, agreement (tau, R1^2) and layers of knowledge neurons.

    Example: kntools figure localisation determiner_noun_agreement_1 P36 P101 --limit 20 --out localised
    """
    model, marked = prepared(options, sources, neuron)
    groups = chosen.load(model, sources, limit, options.seed)
    paired = any(group.label("determiner") for group in groups)
    if not paired:
        without_effect("on sources without determiner-noun pairs", neuron=neuron)
    found = analyses.localisation(model, groups, settings=search.settings, null=null, **options.shared)
    shares = analyses.pairs_of(found, groups, seed=options.seed).shares(marked) if paired else None
    layers = analyses.layer_distribution(found, seed=options.seed)
    return result_output(found, options, tables={**found.tables(), "shares": shares, "layers": layers.to_frame()})


@command
def layer_distribution(
    result: Annotated[Path, Argument(help="The result of kntools figure localisation.")],
    options: Options,
    layers: Annotated[int | None, Option(min=1, help="Layers of the model (default: the result's).")] = None,
) -> Result:
    """Layers of knowledge neurons.

    Example: kntools figure 4 localised.json --out layers
    """
    return analyses.layer_distribution(load(result, analyses.Localisation), n_layers=layers, seed=options.seed)


@command
def suppression_effect(
    paradigm: Paradigm,
    options: RunOptions,
    how: Suppressed,
    change: Annotated[
        Definition | None,
        Option(help="Definition of the change (default: log_odds; kn_thesis where there is no foil)."),
    ] = None,
    paper: Annotated[bool, Option("--paper", help="Use the published test.")] = False,
) -> Result:
    """Effect of suppressing neurons on plural, singular and neutral words.

    Example: kntools figure 5 determiner_noun_agreement_1 --neuron L19.N1044 --no-bos --out effect
    """
    tested: dict[str, Any] = {"factor": how.factor, "change": change, "paper": paper}
    model, prompts, neurons = how.load(options, paradigm)
    return analyses.suppression_effect(model, prompts, neurons, **tested, **options.shared)


@command
def cooccurrence_bias(
    effect: Annotated[Path, Argument(help="The result of kntools figure suppression_effect.")],
    options: ModelOptions,
    corpus: Annotated[
        list[Path] | None, Argument(help="Text files, one sentence a line, or .jsonl with one row a line.")
    ] = None,
    field: Annotated[str | None, Option(help="Field of the rows of a .jsonl file that holds the text (text).")] = None,
    expected: Annotated[
        bool, Option("--expected", help="Also count what a causal model would write after each word.")
    ] = False,
    group: Annotated[str, Option(help="Number of the nouns in the prompts.")] = "plural",
    section: Annotated[list[str] | None, Option(help="Words of the effect; may be repeated (neutral).")] = None,
    least: Annotated[int, Option(min=1, help="Least number of nouns beside a word.")] = 10,
    between: Annotated[int, Option(min=0, help="Words allowed between a word and its noun.")] = 1,
) -> Result:
    """Correlate the effect of figure 5 with how often words occur with plural nouns.

    Example: kntools figure 6 effect.json corpus.txt --out bias
    """
    if not corpus and not expected:
        raise ValueError("nothing to count; give text files after the result, or --expected")
    check_distinct("corpus", [path.resolve() for path in corpus or ()])
    if not any(path.suffix == ".jsonl" for path in corpus or ()):
        without_effect("without a .jsonl file", field=field)
    if not expected:
        of_model = {name: value for name, value in changed(options).items() if name in ModelOptions.__annotations__}
        without_effect("without --expected", **of_model)
    suppressed = load(effect, analyses.SuppressionEffect)
    texts = (line for path in corpus or () for line in analyses.read_texts(path, field or "text"))
    words, nouns = [row["word"] for row in suppressed.rows], analyses.noun_numbers()
    counts = analyses.count_beside(texts, words, nouns, between=between)
    if expected:
        for word, more in analyses.expected_beside(options.load(), words, nouns).items():
            counts[word] += more
    which: dict[str, Any] = {"group": group, "sections": section or ["neutral"], "least": least}
    return analyses.cooccurrence_bias(suppressed, counts, **which, seed=options.seed)


@command
def probability_shift(paradigm: Paradigm, options: RunOptions, how: Suppressed) -> Result:
    """Word probabilities before and after suppressing neurons.

    Example: kntools figure 7 determiner_noun_agreement_1 --neuron L19.N1044 --no-bos --out shift
    """
    model, prompts, neurons = how.load(options, paradigm)
    return analyses.probability_shift(model, prompts, neurons, factor=how.factor, run=options.kept)


@command
def reliability(
    sources: Sources,
    options: RunOptions,
    search: Search,
    limit: Limit = 100,
    count: Annotated[int | None, Option(min=1, help="Neurons per prompt: those with its highest scores (5).")] = None,
    neuron: SomeNeurons = None,
    edit: Annotated[list[str] | None, Option(help=f"{', '.join(EDITS)}; may be repeated (all).")] = None,
) -> Result:
    """Predictions changed by editing neurons: the leading ones, or given ones.

    Example: kntools figure 8 P36 determiner_noun_agreement_1 --edit suppress --out reliability
    """
    edits = choose("edit", edit, EDITS)
    if neuron:
        without_effect("with --neuron", count=count, **changed(search))
    model, neurons = prepared(options, sources, neuron)
    prompts = analyses.known_prompts(model, sources, limit=limit, seed=options.seed)
    which: dict[str, Any] = {"neurons": neurons, "count": count or 5, "edits": edits, "settings": search.settings}
    return analyses.reliability(model, prompts, **which, **options.shared)


@command
def transfer(
    sources: Annotated[list[str] | None, Argument(help="BLiMP paradigms (default: nine of number).")] = None,
    *,
    options: RunOptions,
    search: Search,
    chosen: Groups,
    limit: Limit = 50,
    found_in: Annotated[
        str | None, Option(help=f"Paradigm to find neurons in ({analyses.NUMBER_PARADIGMS[0]}).")
    ] = None,
    number: Annotated[Number, Option(help="Number of the neurons and of the pairs.")] = "plural",
    pairs: Annotated[int | None, Option(min=1, help="Pairs of words to find them in (100).")] = None,
    count: Annotated[int | None, Option(min=1, help="Number of leading neurons to suppress together (3).")] = None,
    neuron: SomeNeurons = None,
) -> Result:
    """Neurons of number that are found in one paradigm, suppressed in others.

    Example: kntools figure transfer --limit 30 --no-bos --out transfer
    """
    if neuron:
        without_effect(
            "with --neuron", found_in=found_in, pairs=pairs, count=count, **changed(chosen), **changed(search)
        )
    names, first = list(sources or analyses.NUMBER_PARADIGMS), found_in or analyses.NUMBER_PARADIGMS[0]
    model, neurons = prepared(options, [*names, first], neuron)
    left_out: set[str] = set()
    if neurons is None:
        groups = chosen.load(model, [first], pairs or 100, options.seed)
        kept = beside(options.kept, "search")
        found = analyses.pair_search(model, groups, settings=search.settings, seed=options.seed, run=kept)
        neurons, left_out = found.leading(number, count or 3), found.nouns("selection")
    how: dict[str, Any] = {"limit": limit, "number": number, "without": left_out, "seed": options.seed}
    return analyses.transfer(model, analyses.number_prompts(model, names, **how), neurons, **options.shared)


@command
def selection_methods(
    sources: Sources,
    options: RunOptions,
    limit: Limit = 20,
    count: Count = 5,
    method: MethodNames = None,
    ablation: Annotated[AblationName, Option(help="Replacement of ablated neurons.")] = "zero",
) -> Result:
    """Compare methods of selecting neurons, by ablating the neurons and by keeping only them.

    Example: kntools figure selection_methods P36 --limit 8 --out methods
    """
    methods = chosen_methods(method)
    model, _ = prepared(options, sources)
    prompts = analyses.known_prompts(model, sources, limit=limit, seed=options.seed)
    how: dict[str, Any] = {"methods": methods, "count": count, "ablation": ablation}
    return analyses.selection_methods(model, prompts, **how, **options.shared)


@command
def planted_facts(
    source: Annotated[str, Argument(help="A ParaRel relation; its facts are trained with wrong answers.")],
    options: RunOptions,
    limit: Limit = 10,
    count: Annotated[int, Option(min=1, help="Neurons per trained fact.")] = 10,
    draws: Annotated[int, Option(min=1, help="Draws of these neurons, per fact.")] = 3,
    method: MethodNames = None,
) -> Result:
    """Train facts into few neurons, and compare which attribution methods find them.

    Example: kntools figure planted_facts P36 --model tiny-bert --out planted
    """
    methods = chosen_methods(method)
    model, _ = prepared(options, [source])
    prompts = analyses.false_facts(source, model, limit=limit, seed=options.seed)
    return analyses.planted_facts(model, prompts, methods=methods, count=count, draws=draws, **options.shared)


@command
def tracing_profile(
    what: Annotated[Traced, Argument(help="Prompts to trace.")],
    options: RunOptions,
    limit: Limit = 100,
    samples: Annotated[int, Option(min=1, help="Samples of noise per prompt.")] = 10,
    window: Annotated[int | None, Option(min=1, help="Layers restored together for mlp and attn (10).")] = None,
    kind: Annotated[list[str] | None, Option(help=f"{', '.join(KINDS)}; may be repeated (all).")] = None,
    sever: Annotated[list[str] | None, Option(help="mlp, attn; may be repeated (none).")] = None,
) -> Result:
    """Causal traces of many prompts, by token role and layer.

    Example: kntools figure 9 facts --sever mlp --sever attn --no-bos --out traced
    """
    kinds, severed = choose("kind", kind, KINDS), choose("sever", sever, get_args(Severed)) if sever else []
    if set(kinds) == {"hidden"}:
        without_effect("with --kind hidden", window=window)
    model = options.load()
    prompts = analyses.traced_prompts(model, what, limit=limit)
    how: dict[str, Any] = {"kinds": kinds, "sever": severed, "window": window, "samples": samples}
    how |= {"two_way": TRACED[what], "known_only": False}
    return analyses.tracing_profile(model, prompts, **how, **options.shared)
