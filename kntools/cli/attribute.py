"""`kntools attribute`: which neurons make this answer probable?"""

from typing import Annotated

from typer import Option

from kntools.cli import pages
from kntools.cli.command import command
from kntools.cli.options import Integral, ModelOptions, MultiToken, Target, Text
from kntools.cli.output import Output, Sheet
from kntools.plots import neuron_bars
from kntools.prompts import Prompt
from kntools.report.page import Chart, Page, PageTable, Section
from kntools.results.display import number


@command
def attribute(
    text: Text,
    target: Target,
    options: ModelOptions,
    integral: Integral,
    multi_token: MultiToken = "error",
    top: Annotated[int, Option(min=1, help="Number of leading neurons to show and to test.")] = 10,
    draws: pages.Draws = 10,
) -> Output:
    """Attribute an answer to the neurons of a model.

    Example: kntools attribute "The capital of Canada is" " Ottawa" --top 5
    """
    prompt = Prompt(text, target, multi_token=multi_token)  # a mistake in it is found before the model is loaded
    model = options.load()
    att = integral.settings.attribute(model, [prompt])
    neurons = att.top(min(top, sum(att.widths)))
    leading = att.to_frame(top=len(neurons))[["layer", "neuron", "score", "rank"]].rename(columns={"neuron": "index"})
    leading.insert(0, "neuron", [repr(n) for n in neurons])
    probability = float(att.probability[0])

    def page() -> Page:
        chart = Chart(neuron_bars(att, k=len(neurons)), "Neurons with the highest scores.", n="1 prompt")
        table = PageTable(leading, "Leading neurons.", csv="neurons.csv")
        lead = f"Which of the {sum(att.widths):,} MLP neurons make this answer probable ({number(probability)})?"
        return Page(f"{text} → {target.strip()}", [Section("Leading neurons", [chart, table])], lead)

    sheet = Sheet(f"{text!r} -> {target!r}: probability {number(probability)}", leading, pages.notes(att))
    data = {"prompt": {"text": text, "target": target}, "probability": probability, "neurons": leading}
    return pages.attribution_output(options, model, att, neurons, draws, [sheet], data, page)
