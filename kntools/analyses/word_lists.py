"""The modifiers of figure 5 (Niu et al. 2024), in its three sections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

FIGURE_5: dict[str, tuple[str, ...]] = {
    "plural": ("these", "those", "two", "both", "multiple", "several", "various"),
    "singular": ("this", "that", "one", "a", "an", "every", "unique", "single", "sole"),
    "neutral": ("the", "any", "all", "some", "my", "our", "unified", "scattered"),
}


def checked_words(words: Mapping[str, Sequence[str]] | Sequence[str]) -> list[tuple[str, str]]:
    """`(section, word)` in order; a plain list is one section. Empty lists and repeated words are errors."""
    sections = words if isinstance(words, Mapping) else {"words": words}
    if isinstance(words, str):
        raise ValueError(f"words={words!r} is one text; give a list, e.g. [{words!r}]")
    found = [(section, word.strip()) for section, some in sections.items() for word in some]
    if not found or any(not some for some in sections.values()):
        empty = [section for section, some in sections.items() if not some]
        raise ValueError(f"the word list is empty ({empty or 'no section'}); give at least one word per section")
    names = [word for _, word in found]
    twice = sorted({word for word in names if names.count(word) > 1})
    if twice or "" in names:
        raise ValueError(f"words must be there once, and not be empty: {twice or names}")
    return found
