"""A word ends where no letter, mark or vowel sign follows, in every script."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

import kntools as kn
from kntools.analyses.fig06_cooccurrence_bias import count_beside
from kntools.data.blimp_pairs import _whole
from kntools.prompts import PromptError, Reason
from kntools.word_borders import is_glued, occurrences
from tests import zoo

SOFT, ZWSP, ZWNJ, ZWJ = "\u00ad", "\u200b", "\u200c", "\u200d"

#: Text, subject, and what is found of it, as the text writes it.
CASES: dict[str, tuple[str, str, list[str]]] = {
    # marks and vowel signs
    "Devanagari vowel sign": ("रामायण में", "राम", []),
    "Devanagari word": ("और राम आया", "राम", ["राम"]),
    "Devanagari conjunct": ("नमस्ते", "नमस", []),
    "Devanagari virama": ("क्षमा", "क", []),
    "Bengali": ("বাংলাদেশ", "বাংলা", []),
    "Tamil vowel sign": ("மொழி", "மொழ", []),
    "Tamil vowel sign in two parts": (
        unicodedata.normalize("NFD", "தமிழ் மொழி"),
        "மொழி",
        [unicodedata.normalize("NFD", "மொழி")],
    ),
    "acute": ("a cafe\u0301 is", "cafe", []),
    "diaeresis": ("by Zoe\u0308", "Zoe", []),
    "acute behind a soft hyphen": (f"a cafe{SOFT}\u0301 is", "cafe", []),
    "acute behind a joiner": (f"a cafe{ZWNJ}\u0301 is", "cafe", []),
    "two marks in another order": ("a\u0323\u0302 is", "a\u0302\u0323", ["a\u0323\u0302"]),
    "Vietnamese": (unicodedata.normalize("NFD", "ở Việt Nam."), "Việt Nam", [unicodedata.normalize("NFD", "Việt Nam")]),
    "Vietnamese without tones": (unicodedata.normalize("NFD", "ở Việt Nam."), "Viet", []),
    "niqqud": ("שָׁלוֹם", "שלום", []),
    "niqqud in presentation forms": ("\ufb2aלום רב", "ש\u05c1לום", ["\ufb2aלום"]),
    "harakat": ("مُحَمَّدٌ رسول", "مُحَمَّد", []),
    "harakat in another order": ("م\u0651\u064eد هنا", "م\u064e\u0651د", ["م\u0651\u064eد"]),
    "Arabic article": ("القاهرة", "قاهرة", []),
    # scripts with spaces
    "Latin": ("Canadaland", "Canada", []),
    "sharp s": ("STRAẞE", "STRA", []),
    "dotless i": ("DIŞARI", "DI", []),
    "modifier letter": ("Hawai\u02bbi", "Hawai", []),
    "fullwidth": ("ＲＯＭＥ", "ＲＯＭ", []),
    "Georgian": ("საქართველო", "საქართ", []),
    "Ethiopic": ("ኢትዮጵያ", "ኢትዮ", []),
    "Adlam": ("𞤀𞤣𞤤𞤢𞤥", "𞤀𞤣", []),
    "digits": ("in 1984", "19", []),
    "digits of a name": ("Apollo 11", "Apollo 11", ["Apollo 11"]),
    "a longer number": ("Apollo 112", "Apollo 11", []),
    "letters and digits": ("the R2D2", "R2", []),
    "superscript": ("m² of", "m", []),
    # Korean: syllables of letters, and particles behind the noun
    "Hangul syllable": ("한국 서울", "하", []),
    "Hangul letters": (unicodedata.normalize("NFD", "한국 서울"), "하", []),
    "Hangul composed and not": (
        unicodedata.normalize("NFD", "한국 서울"),
        "한국",
        [unicodedata.normalize("NFD", "한국")],
    ),
    "Korean particle": ("캐나다의 수도는", "캐나다", ["캐나다"]),
    "Korean particles": ("서울에서는", "서울", ["서울"]),
    "Korean particle, letters": (
        unicodedata.normalize("NFD", "수도는"),
        "수도",
        [unicodedata.normalize("NFD", "수도")],
    ),
    "Korean particle of a Latin name": ("NASA는", "NASA", ["NASA"]),
    "a longer Korean word": ("한국어는", "한국", []),
    "the end of a Korean word": ("대한민국", "한국", []),
    # scripts without spaces
    "Chinese": ("中国的首都是", "中国", ["中国"]),
    "Japanese": ("カナダの首都", "カナダ", ["カナダ"]),
    "Japanese, halfwidth": ("ｶﾅﾀﾞの", "ｶﾅﾀﾞ", ["ｶﾅﾀﾞ"]),
    "voiced mark": ("ｶﾅﾀﾞの", "ｶﾅﾀ", []),
    "voiced mark, decomposed": (unicodedata.normalize("NFD", "ガの"), "カ", []),
    "Latin in Japanese": ("首都はOttawaです", "Ottawa", ["Ottawa"]),
    "Thai": ("ประเทศไทย", "ไทย", ["ไทย"]),
    "Thai vowel behind": ("กานคร", "ก", []),
    "Thai vowel in front": ("เกม", "กม", []),
    "Thai tone": ("ก้าว", "ก", []),
    "Lao vowel": ("ລາວ", "ລ", []),
    "Khmer": ("ភាសាខ្មែរ", "ខ្មែរ", ["ខ្មែរ"]),
    "Khmer consonant below": ("ខ្មែរ", "មែរ", []),
    "Burmese vowel": ("မြန်မာ", "မြန်မ", []),
    "Burmese stack": ("မန္တလေး", "တလေး", []),
    "Tibetan": ("བོད་ལྗོངས", "བོད", ["བོད"]),
    # what separates words, and what does not
    "apostrophe": ("Rome's walls", "Rome", ["Rome"]),
    "curly apostrophe": ("Rome’s walls", "Rome", ["Rome"]),
    "hyphen": ("the Rome-Berlin axis", "Berlin", ["Berlin"]),
    "underscore": ("in_Rome_is", "Rome", ["Rome"]),
    "the whole text": ("Rome", "Rome", ["Rome"]),
    "punctuation inside": ("Yahoo! Inc. is", "Yahoo! Inc.", ["Yahoo! Inc."]),
    "punctuation alone": ("Is C++ or C", "C++", ["C++"]),
    "a space inside": ("New Yorkers", "New York", []),
    "zero-width space": (f"in Rome{ZWSP}is", "Rome", ["Rome"]),
    "soft hyphen behind": (f"Rome{SOFT}ites", "Rome", []),
    "soft hyphen inside": (f"in Ro{SOFT}me is", "Rome", [f"Ro{SOFT}me"]),
    "word joiner": ("Rome\u2060ites", "Rome", []),
    "joiner": (f"Rome{ZWJ}ites", "Rome", []),
    "joiner at the end": (f"کتاب{ZWNJ} است", "کتاب", ["کتاب"]),
    "half of a Persian word": (f"می{ZWNJ}خواهم", "می", []),
    "mark of direction": ("of \u200eRome\u200f is", "Rome", ["Rome"]),
    "emoji": ("the 👩 is", "👩", ["👩"]),
    "half of an emoji": (f"the 👩{ZWJ}🚀 is", "👩", []),
    "tone of an emoji": ("the 👍🏽 is", "👍", []),
    "half of a flag": ("the 🇨🇦 is", "🇨", []),
    "a flag beside a flag": ("🇨🇦🇯🇵", "🇯🇵", ["🇯🇵"]),
    "keycap": ("press 1\ufe0f\u20e3", "1", []),
    "a mark alone": ("cafe\u0301", "\u0301", []),
    "not there": ("The capital", "Rome", []),
    "empty": ("The capital", "", []),
    "of nothing that is seen": (f"The{ZWJ} capital", ZWJ, []),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("form", [None, "NFC", "NFD"])
def test_a_subject_in_a_text(name: str, form: Any) -> None:
    """In every composition of the subject, at any place, several times."""
    text, subject, expected = CASES[name]
    subject = subject if form is None else unicodedata.normalize(form, subject)
    for before, after in (("", ""), ("é: ", " é"), ("(", ")"), ("\n", "\n")):
        around = before + text + after + " " + text
        found = occurrences(around, subject)
        assert [around[a:b] for a, b in found] == expected * 2
        assert [a for a, _ in found] == sorted(a for a, _ in found)


@given(st.text("ae\u0301\u0308éëम\u093e\u094dक한국는ᄀ\u1161\u11a8 .中กาเ1_\u00ad\u200b\u200d", max_size=12), st.data())
def test_composition_does_not_matter(text: str, data: Any) -> None:
    subject = text[data.draw(st.integers(0, len(text))) :][: data.draw(st.integers(1, 4))]
    assume(subject)
    found = {form: occurrences(unicodedata.normalize(form, text), subject) for form in ("NFC", "NFD")}
    for form in ("NFC", "NFD"):
        assert occurrences(text, unicodedata.normalize(form, subject)) == occurrences(text, subject)
        whole = unicodedata.normalize(form, text)
        for start, end in found[form]:
            assert unicodedata.category(whole[end : end + 1] or " ")[0] != "M", "a mark follows"
            assert unicodedata.category(whole[start])[0] != "M" or start == 0 or whole[start - 1] in "\u200b"
    assert len(found["NFC"]) == len(found["NFD"])


@pytest.mark.parametrize(
    ("text", "subject"), [("रामायण एक", "राम"), ("The cafe\u0301 is", "cafe"), ("The Zoe\u0308 is", "Zoe")]
)
def test_a_prompt_whose_subject_is_part_of_a_word(text: str, subject: str) -> None:
    for form in ("NFC", "NFD"):
        with pytest.raises(PromptError) as error:
            prompt = kn.Prompt(unicodedata.normalize(form, text), " Ottawa", subject=subject)
            kn.encode(zoo.tiny("llama"), prompt)
        assert error.value.reason == Reason.SUBJECT


@pytest.mark.parametrize(
    ("text", "answer", "expected"),
    [
        ("is", "Ottawa", True),
        ("is", " Ottawa", False),
        ("well-", "known", False),
        ("3", "rd", False),
        ("3+3=", "6", False),
        ("A1", "b", False),
        ("中国的首都是", "北京", False),
        ("是", "Ottawa", False),
        ("cafe", "\u0301", True),
        ("cafe\u0301", "s", True),
        ("राम", "ायण", True),
        (f"is{ZWJ}", "land", True),
        (f"is{SOFT}", "land", True),
        (f"is{ZWSP}", "land", False),
        ("is", ZWSP, False),
        ("수도", "오타와", True),
        ("수도", "는", False),
        ("\n", "The", False),
    ],
)
def test_an_answer_that_continues_a_word(text: str, answer: str, expected: bool) -> None:
    assert is_glued(text, answer) == expected


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [(4, 8, False), (4, 10, True), (9, 10, False), (11, 14, True), (14, 15, False), (15, 16, True), (3, 3, False)],
)
def test_tokens_of_minimal_pairs_are_whole_words(start: int, end: int, expected: bool) -> None:
    assert _whole("The cafe\u0301s don't", start, end) == expected


def test_words_that_are_counted_are_whole_words() -> None:
    texts = ["these cafe\u0301s", "these cafe\u0301", "these caf\u00e9"]
    counts = count_beside(texts, ["these"], {"cafe": "singular", "s": "plural", "café": "singular"}, between=0)
    assert counts["these"] == {"singular": 2, "plural": 0}
