"""A few configurations of the architecture table, cell by cell; and the page is that of the committed run.

The whole of it: `python -m scripts.architectures`.
"""

import logging
import warnings
from collections.abc import Iterator

import pytest
from transformer_lens.factories.architecture_adapter_factory import SUPPORTED_ARCHITECTURES

import kntools as kn
from scripts.architectures.__main__ import PAGE, cells_of, committed
from scripts.architectures.families import FAMILIES, NATIVE
from scripts.architectures.gaps import GAPS, LEFT_OUT
from scripts.architectures.table import failures
from tests import zoo

pytestmark = pytest.mark.skipif(zoo.has_hooked_classes(), reason="the families are those of transformer-lens 4")

SUBSET = [
    "falcon-alibi",  # ALiBi
    "llama-dynamic-rope",  # positions depend on the length of the run
    "gemma4-per-layer",  # norms behind the MLP; layers read more than the residual stream
    "t5",  # encoder-decoder: refused
    "cohere2",  # sliding window, attention and MLP in parallel
    "qwen2-moe-mixed",  # experts in some layers
    "mixtral",  # ... in all
    "mamba",  # no attention
    "lfm2",  # attention in some layers
    "opt",  # a batch that is flattened inside of layers
    "bert",  # masked, norms after adding
    "native-attention-only",
    "gpt2-compatible",
]


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)  # TransformerLens, while it folds weights
    with kn.set_options(progress=False), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", SUBSET)
def test_every_cell_is_right_or_a_clear_error(name: str) -> None:
    cells = cells_of(name)
    assert not failures({name: cells})
    assert ("right" in {cell["status"] for cell in cells.values()}) == (name != "t5")


def test_the_page_is_that_of_the_committed_run() -> None:
    cells, page = committed()
    assert not failures(cells)
    assert list(cells) == list(FAMILIES)
    assert PAGE.read_text(encoding="utf-8") == page


def test_the_readme_says_what_the_table_shows() -> None:
    cells, _ = committed()
    readme = (PAGE.parent.parent / "README.md").read_text(encoding="utf-8")
    assert f"{len(cells)} tiny configurations" in " ".join(readme.split())


def test_every_architecture_of_transformer_lens_has_a_row_or_a_reason() -> None:
    rows = {family.model for family in FAMILIES.values()} - {NATIVE}
    left_out = {name for names in LEFT_OUT.values() for name in names.split()}
    assert rows | left_out >= set(SUPPORTED_ARCHITECTURES)
    assert not rows & left_out
    assert len(FAMILIES) >= 80


def test_gaps_are_cells_of_the_table() -> None:
    assert {gap.configuration for gap in GAPS} <= set(FAMILIES)
