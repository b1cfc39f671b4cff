"""The built-in sample: a data folder of our own, in the layout and fields of the data sets that it stands in for."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

FOLDER = Path(str(resources.files("kntools.data") / "sample"))
PARADIGMS = (
    "sample_determiner_noun_agreement_1",
    "sample_determiner_noun_agreement_2",
    "sample_subject_verb_agreement",
)
#: What loaders may be asked for: `paradigms` of BLiMP, and `relations` of ParaRel.
NAMES: dict[str, Any] = tomllib.loads((FOLDER / "names.toml").read_text(encoding="utf-8"))
