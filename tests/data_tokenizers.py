"""Three tokenizers of the kinds that matter for data, trained in seconds on whatever sentences are given.

The published ones need a download; these cut words in the same three ways, and into pieces often enough that
every reason for skipping occurs.
"""

from collections import Counter
from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

KINDS = ("gpt2_like", "llama_like", "bert_like")


def train(kind: str, sentences: Sequence[str]) -> PreTrainedTokenizerFast:
    return {"gpt2_like": gpt2_like, "llama_like": llama_like, "bert_like": bert_like}[kind](sentences)


def gpt2_like(sentences: Sequence[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE: a space belongs to the word after it."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=5000,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    words.train_from_iterator(sentences, trainer)
    end = "<|endoftext|>"
    return PreTrainedTokenizerFast(tokenizer_object=words, bos_token=end, eos_token=end, model_max_length=1024)


def llama_like(sentences: Sequence[str]) -> PreTrainedTokenizerFast:
    """SentencePiece's BPE: a space becomes `▁`, one stands before the text, unknown letters become bytes."""
    words = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    words.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    words.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(
        vocab_size=3000,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))],
        show_progress=False,
    )
    words.train_from_iterator(sentences, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="<s>", eos_token="</s>", unk_token="<unk>", model_max_length=1024
    )


def bert_like(sentences: Sequence[str]) -> PreTrainedTokenizerFast:
    """WordPiece, lower case. The vocabulary is counted, not trained: the trainer's differs between processes."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    cut = pre_tokenizers.BertPreTokenizer()
    lower = normalizers.BertNormalizer(lowercase=True)
    counts = Counter(word for text in sentences for word, _ in cut.pre_tokenize_str(lower.normalize_str(text)))
    letters = [chr(code) for code in range(33, 127)]
    frequent = sorted(word for word, n in counts.items() if n >= 3 and len(word) > 1)
    # Endings leave words that differ in their last piece only: "book ##s" and "book ##ing".
    vocabulary = [*specials, *letters, *("##" + letter for letter in letters), "##ed", "##ing", *frequent]
    words = Tokenizer(models.WordPiece({token: i for i, token in enumerate(vocabulary)}, unk_token="[UNK]"))
    words.normalizer = lower
    words.pre_tokenizer = cut
    words.decoder = decoders.WordPiece()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(special, vocabulary.index(special)) for special in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        pad_token="[PAD]",
        model_max_length=512,
    )
