"""Figure 7: the exact probabilities of words before and after a neuron edit.

    python -m kntools.analyses.fig07_probability_shift determiner_noun_agreement_2 --neurons 9.1094 --model bert-base-cased --out results/shift

`--out` names the files to write (`.safetensors`, `.csv`, `.html`); `--run` a folder from which a killed run goes on.
"""  # noqa: E501 - a command

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from kntools.analyses import command
from kntools.analyses.neuron_search import open_run
from kntools.analyses.noun_prompts import noun_prompts
from kntools.analyses.prompt_groups import in_parts
from kntools.analyses.word_lists import FIGURE_5, checked_words
from kntools.analyses.word_probabilities import check_words, checked_neurons, word_probabilities
from kntools.engine.answers import Edit, untouched
from kntools.hooks.interventions import scale_neurons
from kntools.prompts import Prompt
from kntools.results import saving
from kntools.results.display import frame_html, frame_text
from kntools.results.statistics import bootstrap_interval
from kntools.sites import Neuron

_TOGETHER = 16  # prompts of one item of a run


@dataclass(frozen=True, eq=False, repr=False)
class ProbabilityShift:
    """The probability of every word in every prompt, untouched and edited.

    `groups[i]` is the name of the prompts that row i belongs to (the number of the noun).
    """

    before: Float[Tensor, "prompt word"]
    after: Float[Tensor, "prompt word"]
    groups: tuple[str, ...]
    words: tuple[tuple[str, str], ...]  # (section, word)
    neurons: tuple[Neuron, ...]
    factor: float
    header: dict[str, Any]

    def pair(self, group: str, word: str) -> tuple[Float[Tensor, " prompt"], Float[Tensor, " prompt"]]:
        """Before and after, of one word in the prompts of one group."""
        rows = [i for i, name in enumerate(self.groups) if name == group]
        names = [w for _, w in self.words]
        if not rows or word not in names:
            raise ValueError(f"no {group!r} / {word!r}; there are groups {sorted(set(self.groups))} and words {names}")
        column = names.index(word)
        return self.before[rows, column], self.after[rows, column]

    def to_frame(self) -> pd.DataFrame:
        """`group, section, word, n, before, after, difference, low, high`: means, and an interval of the difference."""
        rows = []
        for group in dict.fromkeys(self.groups):
            for section, word in self.words:
                before, after = self.pair(group, word)
                low, high = bootstrap_interval(after.double() - before.double())
                rows.append(
                    {
                        "group": group, "section": section, "word": word, "n": len(before),
                        "before": float(before.double().mean()), "after": float(after.double().mean()),
                        "difference": float((after.double() - before.double()).mean()), "low": float(low),
                        "high": float(high),
                    }
                )  # fmt: skip
        return pd.DataFrame(rows)

    def plot(self, **look: Any) -> Any:
        """Mean probability of each word before and after, on a logarithmic axis."""
        from kntools.plots.charts import scatter_chart

        columns = {"var_name": "edit", "value_name": "probability"}
        frame = self.to_frame().melt(["group", "word"], ["before", "after"], **columns)
        figure = scatter_chart(
            frame.assign(group="prompts: " + frame["group"]),
            "probability",
            "word",
            color="edit",
            join="word",
            facet_col="group",
            log_x=True,
            labels={"probability": "mean probability", "word": ""},
            **{"title": self.describe(), **look},
        )
        return figure.update_xaxes(dtick=1)

    def save(self, path: str | Path) -> Path:
        """Write to a `.safetensors` file with a JSON header."""
        header = {
            "groups": list(self.groups), "words": [list(w) for w in self.words], "factor": self.factor,
            "neurons": [[n.layer, n.index] for n in self.neurons], "header": self.header,
        }  # fmt: skip
        return saving.save(path, "probability shift", {"before": self.before, "after": self.after}, header)

    @classmethod
    def load(cls, path: str | Path) -> ProbabilityShift:
        """Read what `save` wrote."""
        tensors, h = saving.load(path, "probability shift")
        words, neurons = tuple((s, w) for s, w in h["words"]), tuple(Neuron(*n) for n in h["neurons"])
        return cls(tensors["before"], tensors["after"], tuple(h["groups"]), words, neurons, h["factor"], h["header"])

    def describe(self) -> str:
        named = ", ".join(map(repr, self.neurons[:5])) + (" ..." if len(self.neurons) > 5 else "")
        return (
            f"{named} x {self.factor:g}: {len(self.words)} words, {len(self.groups)} prompts ({self.header['model']})"
        )

    def __repr__(self) -> str:
        return f"{self.describe()}\n{frame_text(self.to_frame())}"

    def _repr_html_(self) -> str:
        return frame_html(self.describe(), self.to_frame())


def probability_shift(
    model: Any,
    prompts: Mapping[str, Sequence[Prompt]],
    neurons: Iterable[Neuron | tuple[int, int]],
    *,
    words: Mapping[str, Sequence[str]] | Sequence[str] = FIGURE_5,
    factor: float = 0.0,
    prepend_bos: bool | None = None,
    max_rows: int | None = None,
    run: str | Path | None = None,
    progress: bool = True,
) -> ProbabilityShift:
    """Probabilities of words before and after neurons are scaled (Niu et al. 2024, figure 7).

    ```python
    prompts = noun_prompts(model, "determiner_noun_agreement_1", limit=200)     # {"plural": ..., "singular": ...}
    shift = probability_shift(model, prompts, found.leading("plural"))
    shift.to_frame()
    ```

    Arguments:
        prompts: name -> prompts. The words stand in the place of the answer; or, where a text has a `{}`, there, and
            the value is the probability of the prompt's own answer after each word (`noun_prompts` makes both).
        neurons: any, of this model.
        words: section -> words, or a list. In the place of an answer each must be one token. The default is figure
            5's.
        factor: what their activations are multiplied by at the answer position: 0 suppresses, 2 enhances.
        run: a folder that keeps what is finished, from which a killed run goes on.

    Returns:
        `ProbabilityShift`.

    Raises:
        ValueError: no prompts, an empty word list, a word of several tokens, neurons of another model.
    """
    listed = checked_words(words)
    wanted = checked_neurons(model, neurons)
    if not prompts or any(not some for some in prompts.values()):
        raise ValueError(f"every group needs a prompt; there are { ({k: len(v) for k, v in prompts.items()}) }")
    names = [word for _, word in listed]
    parts = in_parts(prompts, _TOGETHER)
    for some in prompts.values():
        check_words(model, some, names)  # before any work
    folder = open_run(
        run, "probability shift", model, neurons=[[n.layer, n.index] for n in wanted], factor=factor, words=names,
        prepend_bos=prepend_bos,
    )  # fmt: skip
    edits: list[Edit] = [untouched, partial(scale_neurons, wanted, factor)]
    found = folder.each(
        parts,
        key=lambda part: part.item,
        make=lambda part: word_probabilities(
            model, part.prompts, names, edits, prepend_bos=prepend_bos, max_rows=max_rows
        ).tolist(),
        unit="part",
        progress=progress,
    )
    before, after = torch.cat([torch.tensor(one) for one in found], dim=1)
    groups = tuple(name for name, some in prompts.items() for _ in some)
    return ProbabilityShift(before, after, groups, tuple(listed), wanted, factor, folder.header)


def parse_neurons(texts: Sequence[str]) -> list[Neuron]:
    """`9.1094` or `L9.N1094`, layer and index counted from zero."""
    try:
        return [Neuron(*map(int, text.upper().replace("L", "").replace("N", "").split("."))) for text in texts]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{list(texts)} are no neurons; write layer.index, e.g. 9.1094 or L9.N1094") from error


def command_parser(name: str, description: str) -> argparse.ArgumentParser:
    """The commands of figures 5 and 7."""
    parser = command.parser(name, description)
    add = parser.add_argument
    add("paradigm", help="whose nouns are asked for, or whose determiners (ending in _1 or _2)")
    add("--neurons", nargs="+", required=True, help="layer.index, counted from zero")
    add("--factor", type=float, default=0.0, help="what activations are multiplied by")
    add("--limit", type=int, default=200, help="prompts per number")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the top of the module."""
    o = command_parser("probability_shift", "Figure 7.").parse_args(argv)
    neurons, model = parse_neurons(o.neurons), command.load(o)
    prompts = noun_prompts(model, o.paradigm, limit=o.limit, seed=o.seed)
    found = probability_shift(model, prompts, neurons, factor=o.factor, prepend_bos=o.bos, run=o.run)
    command.write(found, o.out, data=".safetensors")
    print(found)


if __name__ == "__main__":
    main()
