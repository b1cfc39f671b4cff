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
| | `propose_layer`, `edit_layer` | `Proposal`, `EditLayer`: which layer to edit |

Every result has `to_frame()`, `summary()`, `tables()` (further tables by name) and `plot()`. `settings` says how
neurons are searched for (`PAPER`: the published way), `seed` is of what is drawn at random, and `run` a file that keeps
each finished item: if interrupted, run it again to resume (the file of another run is a `ValueError`).
"""

from kntools.analyses.edit_cases import Case as Case
from kntools.analyses.edit_cases import Question as Question
from kntools.analyses.edit_cases import make_cases as make_cases
from kntools.analyses.edit_measures import Continuations as Continuations
from kntools.analyses.edit_methods import EDITORS as EDITORS
from kntools.analyses.edit_methods import Editor as Editor
from kntools.analyses.edit_methods import editors as editors
from kntools.analyses.edit_methods import fine_tune_method as fine_tune_method
from kntools.analyses.edit_methods import joint_method as joint_method
from kntools.analyses.edit_methods import rome_method as rome_method
from kntools.analyses.edit_methods import values_method as values_method
from kntools.analyses.edit_result import EditConsistency as EditConsistency
from kntools.analyses.fig01_attribution_profile import AttributionProfile as AttributionProfile
from kntools.analyses.fig01_attribution_profile import attribution_profile as attribution_profile
from kntools.analyses.fig02_pair_search import PairSearch as PairSearch
from kntools.analyses.fig02_pair_search import pair_search as pair_search
from kntools.analyses.fig02_pair_search import pairs_of as pairs_of
from kntools.analyses.fig03_localisation import Localisation as Localisation
from kntools.analyses.fig03_localisation import localisation as localisation
from kntools.analyses.fig04_layer_distribution import LayerDistribution as LayerDistribution
from kntools.analyses.fig04_layer_distribution import layer_distribution as layer_distribution
from kntools.analyses.fig05_suppression_effect import SuppressionEffect as SuppressionEffect
from kntools.analyses.fig05_suppression_effect import effect_of as effect_of
from kntools.analyses.fig05_suppression_effect import suppression_effect as suppression_effect
from kntools.analyses.fig06_cooccurrence_bias import CooccurrenceBias as CooccurrenceBias
from kntools.analyses.fig06_cooccurrence_bias import cooccurrence_bias as cooccurrence_bias
from kntools.analyses.fig06_cooccurrence_bias import count_beside as count_beside
from kntools.analyses.fig06_cooccurrence_bias import expected_beside as expected_beside
from kntools.analyses.fig06_cooccurrence_bias import noun_numbers as noun_numbers
from kntools.analyses.fig06_cooccurrence_bias import read_texts as read_texts
from kntools.analyses.fig07_probability_shift import ProbabilityShift as ProbabilityShift
from kntools.analyses.fig07_probability_shift import probability_shift as probability_shift
from kntools.analyses.fig08_reliability import Reliability as Reliability
from kntools.analyses.fig08_reliability import reliability as reliability
from kntools.analyses.fig09_tracing_profile import TracingProfile as TracingProfile
from kntools.analyses.fig09_tracing_profile import traced_prompts as traced_prompts
from kntools.analyses.fig09_tracing_profile import tracing_profile as tracing_profile
from kntools.analyses.fig10_edit_examples import EditExamples as EditExamples
from kntools.analyses.fig10_edit_examples import edit_examples as edit_examples
from kntools.analyses.fig11_edit_consistency import edit_consistency as edit_consistency
from kntools.analyses.forgetting import ForgettingCurve as ForgettingCurve
from kntools.analyses.forgetting import forgetting_curve as forgetting_curve
from kntools.analyses.hase_regression import TracingAndEditing as TracingAndEditing
from kntools.analyses.hase_regression import tracing_and_editing as tracing_and_editing
from kntools.analyses.layer_choice import EditLayer as EditLayer
from kntools.analyses.layer_choice import Proposal as Proposal
from kntools.analyses.layer_choice import edit_layer as edit_layer
from kntools.analyses.layer_choice import propose_layer as propose_layer
from kntools.analyses.method_comparison import METHODS as METHODS
from kntools.analyses.method_comparison import SelectionMethods as SelectionMethods
from kntools.analyses.method_comparison import selection_methods as selection_methods
from kntools.analyses.neuron_search import PAPER as PAPER
from kntools.analyses.neuron_search import SearchSettings as SearchSettings
from kntools.analyses.neuron_transfer import NUMBER_PARADIGMS as NUMBER_PARADIGMS
from kntools.analyses.neuron_transfer import Transfer as Transfer
from kntools.analyses.neuron_transfer import number_prompts as number_prompts
from kntools.analyses.neuron_transfer import transfer as transfer
from kntools.analyses.planted_knowledge import PlantedFacts as PlantedFacts
from kntools.analyses.planted_knowledge import false_facts as false_facts
from kntools.analyses.planted_knowledge import planted_facts as planted_facts
from kntools.analyses.prompt_group import PromptGroup as PromptGroup
from kntools.analyses.prompt_group import by_answer as by_answer
from kntools.analyses.prompt_group import known_prompts as known_prompts
from kntools.analyses.prompt_group import prompt_groups as prompt_groups
from kntools.analyses.words import FIGURE_5 as FIGURE_5
from kntools.analyses.words import noun_prompts as noun_prompts

__all__ = [name for name, value in vars().items() if callable(value) or name.isupper()]


def __dir__() -> list[str]:
    """What autocompletion offers: the public names, without the modules that they come from."""
    return __all__
