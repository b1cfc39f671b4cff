"""A data set of your own: a record, what it asks, and a loader.

    python examples/own_dataset.py [MODEL]

The data are nouns with an irregular plural (`irregular_nouns.tsv`, beside this file).
A loader that ships with kntools is a file like this one in `kntools/data/`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Unpack

import kntools as kn
from kntools.data.filters import select
from kntools.data.read import table
from kntools.data.records import Candidate, Loaded
from kntools.data.sources import Source
from kntools.prompts import MASK

FILE = Path(__file__).with_name("irregular_nouns.tsv")


@dataclass(frozen=True)
class IrregularNoun:
    """A noun in two forms. Each is asked for where the other would be wrong."""

    target: str  # the plural: what the filter `target=` looks at
    singular: str

    two_way: ClassVar[bool] = True  # known: the right form is more probable than the wrong one
    known_role: ClassVar[str] = "plural"  # which of the questions decides that

    def candidates(self, masked: bool) -> list[Candidate]:
        """All that this record would ask; for a masked model with a mask, for a causal one up to the answer."""
        if self.singular == self.target:
            return [Candidate("plural", None, "singular and plural are the same")]
        end, space = (f" {MASK}.", "") if masked else ("", " ")  # after a text the answer brings the space
        plural, singular = space + self.target, space + self.singular
        return [
            Candidate("plural", kn.Prompt(f"Carl saw these{end}", plural, "these", foil=singular)),
            Candidate("singular", kn.Prompt(f"Carl saw this{end}", singular, "this", foil=plural)),
        ]


def irregular_nouns(path: Path = FILE, **filters: Unpack[kn.data.Filters]) -> Loaded[IrregularNoun]:
    """Read the table. A bad line is an error with its file and number; `filters` are those of every loader."""
    records = [IrregularNoun(row.text("plural"), row.text("singular")) for row in table(path, ("singular", "plural"))]
    return select(records, Source(path.name), **filters)


if __name__ == "__main__":
    model = kn.load_model(sys.argv[1] if len(sys.argv) > 1 else "tiny-bert")
    nouns = irregular_nouns()
    prompts = nouns.prompts(model)
    right = kn.data.known(model, prompts)
    print(nouns)
    print(prompts)
    print(f"right: {sum(right)} of {len(prompts)}, e.g. {prompts[0]}")
