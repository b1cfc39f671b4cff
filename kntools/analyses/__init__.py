"""Analyses of knowledge neurons: each a function over the primitives, whose result has tables and a plot.

| figure | function | result |
| --- | --- | --- |
| 1 | `attribution_profile` | `AttributionProfile`: mean scores of neurons by answer |
| 2 | `pair_search` | `PairSearch`: neurons of determiner-noun pairs |
| 3 | `localisation` | `Localisation`: knowledge neurons, tau and R1^2, with what chance gives |
| 4 | `layer_distribution` | `LayerDistribution`: layers of knowledge neurons |
| 5 | `suppression_effect` | `SuppressionEffect`: changes of word probabilities, tested |
| 6 | `cooccurrence_bias` | `CooccurrenceBias`: these changes against a corpus |
| 7 | `probability_shift` | `ProbabilityShift`: word probabilities before and after |
| 8 | `reliability` | `Reliability`: predictions that neuron edits overturn |
| 9 | `tracing_profile` | `TracingProfile`: causal traces of many prompts |
| 10 | `edit_examples` | `EditExamples`: what a model writes before and after an edit |
| 11 | `edit_consistency` | `EditConsistency`: scores of edits on many facts |
| | `forgetting_curve` | `ForgettingCurve`: what is left of many edits, at once and in sequence |
| | `tracing_and_editing` | `TracingAndEditing`: does the trace of a layer say how well a fact is edited there? |
| | `transfer` | `Transfer`: neurons of one paradigm, suppressed in others |
| | `selection_methods` | `SelectionMethods`: ways to choose neurons |
| | `planted_facts` | `PlantedFacts`: which of them find neurons that a fact was trained into |
| | `propose_layer`, `sweep_layers` | `Proposal`, a table: which layer to edit |

Every result has `to_frame()`, `summary()`, `tables()` (further tables by name) and `plot()`. `settings` says how
neurons are searched for (`PAPER`: the published way), `seed` is of what is drawn at random, and `run` a file that keeps
each finished item: if interrupted, run it again to resume (the file of another run is a `ValueError`).
"""

from kntools.analyses.edit_cases import Case, Question, make_cases
from kntools.analyses.edit_measures import Continuations
from kntools.analyses.edit_methods import (
    EDITORS,
    Editor,
    editors,
    fine_tune_method,
    joint_method,
    rome_method,
    values_method,
)
from kntools.analyses.edit_result import EditConsistency
from kntools.analyses.fig01_attribution_profile import AttributionProfile, attribution_profile
from kntools.analyses.fig02_pair_search import PairSearch, pair_search, pairs_of
from kntools.analyses.fig03_localisation import Localisation, localisation
from kntools.analyses.fig04_layer_distribution import LayerDistribution, layer_distribution
from kntools.analyses.fig05_suppression_effect import SuppressionEffect, effect_of, suppression_effect
from kntools.analyses.fig06_cooccurrence_bias import (
    CooccurrenceBias,
    cooccurrence_bias,
    count_beside,
    expected_beside,
    noun_numbers,
    read_texts,
)
from kntools.analyses.fig07_probability_shift import ProbabilityShift, probability_shift
from kntools.analyses.fig08_reliability import Reliability, reliability
from kntools.analyses.fig09_tracing_profile import TracingProfile, traced_prompts, tracing_profile, two_sites
from kntools.analyses.fig10_edit_examples import EditExamples, edit_examples
from kntools.analyses.fig11_edit_consistency import edit_consistency
from kntools.analyses.forgetting import ForgettingCurve, forgetting_curve
from kntools.analyses.hase_regression import TracingAndEditing, tracing_and_editing
from kntools.analyses.layer_choice import Proposal, propose_layer, sweep_layers
from kntools.analyses.method_comparison import METHODS, SelectionMethods, selection_methods
from kntools.analyses.neuron_search import PAPER, SearchSettings
from kntools.analyses.neuron_transfer import NUMBER_PARADIGMS, Transfer, number_prompts, transfer
from kntools.analyses.planted_knowledge import PlantedFacts, false_facts, planted_facts
from kntools.analyses.prompt_group import PromptGroup, by_answer, known_prompts, prompt_groups
from kntools.analyses.words import FIGURE_5, noun_prompts

__all__ = [
    "EDITORS",
    "FIGURE_5",
    "METHODS",
    "NUMBER_PARADIGMS",
    "PAPER",
    "AttributionProfile",
    "Case",
    "Continuations",
    "CooccurrenceBias",
    "EditConsistency",
    "EditExamples",
    "Editor",
    "ForgettingCurve",
    "LayerDistribution",
    "Localisation",
    "PairSearch",
    "PlantedFacts",
    "ProbabilityShift",
    "PromptGroup",
    "Proposal",
    "Question",
    "Reliability",
    "SearchSettings",
    "SelectionMethods",
    "SuppressionEffect",
    "TracingAndEditing",
    "TracingProfile",
    "Transfer",
    "attribution_profile",
    "by_answer",
    "cooccurrence_bias",
    "count_beside",
    "edit_consistency",
    "edit_examples",
    "editors",
    "effect_of",
    "expected_beside",
    "false_facts",
    "fine_tune_method",
    "forgetting_curve",
    "joint_method",
    "known_prompts",
    "layer_distribution",
    "localisation",
    "make_cases",
    "noun_numbers",
    "noun_prompts",
    "number_prompts",
    "pair_search",
    "pairs_of",
    "planted_facts",
    "probability_shift",
    "prompt_groups",
    "propose_layer",
    "read_texts",
    "reliability",
    "rome_method",
    "selection_methods",
    "suppression_effect",
    "sweep_layers",
    "traced_prompts",
    "tracing_and_editing",
    "tracing_profile",
    "transfer",
    "two_sites",
    "values_method",
]
