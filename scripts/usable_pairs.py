"""How many pairs of each BLiMP paradigm a tokenizer can use.

    python -m scripts.usable_pairs GPT-2=gpt2 SmolLM2=smollm2-135m BERT=bert-base-uncased --out table.csv

Each tokenizer is `LABEL=SOURCE`; a source is a name that `kntools.load_model` knows, a folder or a Hugging
Face id.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm
from transformers import AutoTokenizer

from kntools.data.blimp_pairs import PARADIGMS, blimp
from kntools.data.records import Skipped, TokenizerOnly
from kntools.models.named import NAMED
from scripts import tables

MARKER = "usable"


def main(argv: Sequence[str] | None = None) -> None:
    """The command; see the top of the module."""
    parser = argparse.ArgumentParser(prog="python -m scripts.usable_pairs", description="Usable BLiMP pairs.")
    add = parser.add_argument
    add("tokenizers", nargs="+", metavar="LABEL=SOURCE", type=_label_and_source)
    add("--path", help="where BLiMP is (default: $KNTOOLS_DATA, then the hub)")
    add("--out", type=Path, help="also write the table: .csv, or .md between its markers")
    args = parser.parse_args(argv)

    tokenizers = {label: TokenizerOnly(_tokenizer(source)) for label, source in args.tokenizers}
    rows: list[list[object]] = []
    used: Counter[str] = Counter()
    skipped = dict.fromkeys(tokenizers, Skipped())
    for paradigm in tqdm(PARADIGMS, unit="paradigm"):
        pairs = blimp(paradigm, path=args.path)
        counts: list[object] = []
        for label, tokenizer in tokenizers.items():
            prompts = pairs.prompts(tokenizer)
            counts.append(len(prompts))
            used[label] += len(prompts)
            skipped[label] += prompts.skipped
        rows.append([f"`{paradigm}`", *counts])
    rows.append(["**all**", *(used[label] for label in tokenizers)])
    for reason, _ in sum(skipped.values(), Skipped()).counts:
        rows.append([f"skipped: {reason}", *(skipped[label][reason] for label in tokenizers)])

    columns = ("paradigm", *tokenizers)
    print(tables.markdown(columns, rows))
    if args.out is not None:
        tables.write(args.out, columns, rows, marker=MARKER)


def _label_and_source(text: str) -> tuple[str, str]:
    label, equals, source = text.partition("=")
    if not (label and equals and source):
        raise argparse.ArgumentTypeError(f"{text!r} is not LABEL=SOURCE, for instance GPT-2=gpt2")
    return label, source


def _tokenizer(source: str) -> Any:
    return AutoTokenizer.from_pretrained(NAMED[source]() if source in NAMED else source)


if __name__ == "__main__":
    main()
