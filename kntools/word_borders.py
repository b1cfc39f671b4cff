"""Where words begin and end, in every script."""

from __future__ import annotations

import unicodedata

#: Scripts that write words without spaces between them (as the names of their characters begin).
_UNSPACED = ("CJK", "HIRAGANA", "KATAKANA", "BOPOMOFO", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN", "YI", "JAVANESE")


def _in_word(character: str, kinds: str = "LMN") -> bool:
    """A letter, a mark on one (or a vowel sign) or a digit, of a script that puts spaces between words."""
    if unicodedata.category(character)[0] not in kinds:
        return False
    return not unicodedata.name(character, "").startswith(_UNSPACED)


def is_glued(text: str, answer: str) -> bool:
    """Would the answer continue the last word of the text? A number may be continued, and a word may follow one."""
    return _in_word(text[-1], "LM") and _in_word(answer[0])


def occurrences(text: str, subject: str) -> list[tuple[int, int]]:
    """Where `subject` stands in `text` as words of its own (start, end), in composed or decomposed characters."""
    for form in dict.fromkeys((subject, *(unicodedata.normalize(f, subject) for f in ("NFC", "NFD")))):
        found: list[tuple[int, int]] = []
        start = text.find(form)
        while start >= 0:
            end = start + len(form)
            cut = (start > 0 and _in_word(text[start - 1]) and _in_word(text[start])) or (
                end < len(text) and _in_word(text[end - 1]) and _in_word(text[end])
            )
            if not cut:
                found.append((start, end))
            start = text.find(form, start + 1)
        if found:
            return found
    return []
