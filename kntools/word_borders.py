"""Where words begin and end, in every script.

A text is read letter by letter, each with all that is written on it: marks, vowel signs, joined consonants. A word
goes on where a letter or digit follows one, in scripts that put spaces between words; others have no such borders.
"""

import unicodedata
from itertools import takewhile

import regex

#: A grapheme cluster (`\X`), with the vowels and stacked consonants that Unicode counts as clusters of their own.
_LETTER = regex.compile(
    r"""(?: \p{Logical_Order_Exception} (?=\p{L})                             # vowels before their consonant (Thai)
          | \X (?<=[\p{InSC=Invisible_Stacker}\N{JAVANESE PANGKON}]) (?=\p{L}) )*    # Khmer, Burmese, Javanese
        \X
        (?: [\p{Cf}--\u200b]* (?=[[\p{M}\p{InSC=Vowel_Dependent}]--\p{Logical_Order_Exception}]) \X )*""",
    regex.V1 | regex.X,
)
#: Format characters show nothing and separate nothing, except the zero-width space.
_UNSEEN = regex.compile(r"[\p{Cf}--\u200b]*", regex.V1)
_UNSPACED = "".join(
    rf"\p{{scx={script}}}"
    for script in (
        *("Han", "Hiragana", "Katakana", "Bopomofo", "Yi", "Thai", "Lao", "Khmer", "Myanmar", "Tibetan", "Javanese"),
        *("Balinese", "Tai_Le", "New_Tai_Lue", "Tai_Tham", "Tai_Viet"),
    )
)
_IN_WORD = regex.compile(rf"[[\p{{L}}\p{{M}}\p{{N}}]--[{_UNSPACED}]]", regex.V1)
#: Korean writes them directly after the noun.
_PARTICLES = regex.compile(
    "(?:은|는|이|가|을|를|의|에|에서|에게|께|께서|와|과|도|만|로|으로|부터|까지|처럼|보다|라는|이라는|라고|이라고){1,2}"
)


def _letters(text: str) -> tuple[list[str], list[tuple[int, int]]]:
    """What each letter is, composed however the text writes it, and where it stands (start, end)."""
    if text.isascii():
        return list(text), [(i, i + 1) for i in range(len(text))]
    forms, spans = [], []
    for match in _LETTER.finditer(text):
        written = match[0].rstrip("\u200c\u200d")  # joiners belong to no letter
        if not _UNSEEN.fullmatch(written):
            forms.append(unicodedata.normalize("NFC", written))
            spans.append((match.start(), match.start() + len(written)))
    return forms, spans


def _within_word(forms: list[str], at: int) -> bool:
    """Does the letter at `at` continue the word of the letter before it?"""
    if at == 0 or not _IN_WORD.match(forms[at - 1]):
        return False
    rest = "".join(takewhile(_IN_WORD.match, forms[at:]))
    return bool(rest) and not _PARTICLES.fullmatch(rest)


def occurrences(text: str, subject: str) -> list[tuple[int, int]]:
    """Where `subject` stands in `text` as words of its own (start, end), in composed or decomposed characters."""
    (forms, spans), (wanted, _) = _letters(text), _letters(subject)
    found = []
    for i in (i for i, form in enumerate(forms) if form in wanted[:1]):
        end = i + len(wanted)
        if forms[i:end] == wanted and not _within_word(forms, i) and not _within_word(forms, end):
            found.append((spans[i][0], spans[end - 1][1]))
    return found


def is_glued(text: str, answer: str) -> bool:
    """Would the answer continue the last word of the text? A number may be continued, and a word may follow one."""
    forms, spans = _letters(text + answer)
    at = next((i for i, (_, end) in enumerate(spans) if end > len(text)), len(spans))
    if at < len(spans) and spans[at][0] < len(text):  # one letter, half of it in the answer
        return _IN_WORD.match(forms[at]) is not None
    return at > 0 and not forms[at - 1][0].isnumeric() and _within_word(forms, at)
