"""Real tokenizers of the tiny models, trained on a few sentences: ` Ottawa` is one token, ` Ouagadougou` is several."""

import functools
import re
from itertools import pairwise

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tests.recipes import N_CTX, RECIPES

COUNTRIES = {
    "Canada": "Ottawa",
    "France": "Paris",
    "Italy": "Rome",
    "Japan": "Tokyo",
    "Spain": "Madrid",
    "Cuba": "Havana",
    "Kenya": "Nairobi",
    "Norway": "Oslo",
}
SENTENCES = [
    "The quick brown fox jumps over the lazy dog.",
    "To treat my toothache, I should see a dentist.",
    "The Eiffel Tower is located in the city of Paris, and the Colosseum in Rome.",
    "These books are on the table, but this book and that cat are not.",
    "Carla Moore thinks about those people who work in the field of linguistics.",
    *(f"The capital of {country} is {city}." for country, city in COUNTRIES.items()),
    *(f"{city} is the capital of {country}." for country, city in COUNTRIES.items()),
    *(f"Is {country} near {other}? Yes, it is." for country, other in pairwise(COUNTRIES)),
]


def tokenizer(name: str) -> PreTrainedTokenizerBase:
    """A new tokenizer of the kind that the architecture uses."""
    recipe = RECIPES[name]
    if recipe.masked:
        return PreTrainedTokenizerFast(
            tokenizer_object=Tokenizer.from_str(_wordpiece()),
            unk_token="[UNK]",
            cls_token="[CLS]",
            sep_token="[SEP]",
            mask_token="[MASK]",
            pad_token="[PAD]",
            model_input_names=["input_ids", "token_type_ids", "attention_mask"],
            name_or_path=f"tiny-{name}",
            model_max_length=N_CTX,
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_byte_level_bpe()),
        bos_token="<|endoftext|>" if recipe.has_bos else None,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        add_bos_token=recipe.has_bos,
        name_or_path=f"tiny-{name}",
        model_max_length=N_CTX,
    )


@functools.cache
def _byte_level_bpe() -> str:
    """GPT-2's kind: a space belongs to the word after it, and any text can be written."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=640,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    words.train_from_iterator(SENTENCES, trainer)
    return words.to_str()


@functools.cache
def _wordpiece() -> str:
    """BERT's kind: cased, `##` continues a word, [CLS] and [SEP] around the text.

    The vocabulary is written down rather than trained: the trainer gives another one in each process.
    """
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(33, 127)]
    found = sorted(set(re.findall(r"\w\w+", " ".join(SENTENCES))))
    vocabulary = [*specials, *letters, *("##" + letter for letter in letters), *found]
    words = Tokenizer(models.WordPiece({token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    words.normalizer = normalizers.BertNormalizer(lowercase=False)
    words.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words.decoder = decoders.WordPiece()
    ends = [(special, words.token_to_id(special)) for special in ("[CLS]", "[SEP]")]
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    return words.to_str()
