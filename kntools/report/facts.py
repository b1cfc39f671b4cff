"""Facts that SmolLM2-135M knows, each in several phrasings that end where the answer begins.

All answers are single tokens. The phrasings were kept because the answer is the model's first choice after them (read
without a beginning-of-sequence token, as the model was trained).
"""

from __future__ import annotations

from dataclasses import dataclass

from kntools.prompts import MASK, Prompt


@dataclass(frozen=True)
class Fact:
    """One fact: its short name, its answer, and texts that ask for it."""

    name: str
    target: str
    texts: tuple[str, ...]

    def prompts(self, masked: bool = False) -> list[Prompt]:
        """A masked model is asked for the word that follows, before a full stop."""
        return [Prompt(f"{text} {MASK}." if masked else text, self.target) for text in self.texts]


FACTS = (
    Fact(
        "Canada → Ottawa",
        " Ottawa",
        (
            "The capital of Canada is",
            "The national capital of Canada is",
            "The capital of Canada is called",
            "The government of Canada sits in its capital,",
            "The Canadian parliament is in the city of",
        ),
    ),
    Fact(
        "toothache → dentist",
        " dentist",
        (
            "To treat my toothache, I should see a",
            "I have a toothache; I need to see a",
            "A doctor who takes care of your teeth is called a",
            "To have a tooth pulled, you go to the",
            "If you have a cavity in a tooth, you should visit your",
        ),
    ),
    Fact(
        "Japan → Tokyo",
        " Tokyo",
        (
            "The capital of Japan is",
            "The capital of Japan is called",
            "The government of Japan sits in its capital,",
            "The Japanese capital is",
            "The 1964 Summer Olympics were held in Japan's capital,",
        ),
    ),
    Fact(
        "Colosseum → Rome",
        " Rome",
        (
            "The Colosseum is located in the city of",
            "The Colosseum stands in the city of",
            "The Colosseum was built in ancient",
            "The Colosseum is an amphitheatre in",
            "The Colosseum is an ancient amphitheatre in the city of",
        ),
    ),
    Fact(
        "Hamlet → Shakespeare",
        " Shakespeare",
        (
            "The play Hamlet was written by William",
            "The famous playwright who wrote Hamlet is William",
            "The tragedy Macbeth was written by William",
            "Romeo and Juliet was written by William",
            "The poet who wrote Romeo and Juliet was called William",
        ),
    ),
    Fact(
        "highest mountain → Everest",
        " Everest",
        (
            "The highest mountain in the world is Mount",
            "The tallest mountain on Earth is Mount",
            "Edmund Hillary was the first to climb Mount",
            "Tenzing Norgay reached the summit of Mount",
        ),
    ),
    Fact(
        "Egypt's river → Nile",
        " Nile",
        (
            "The river that flows through Egypt is the",
            "The longest river in Africa is the",
            "Cairo lies on the banks of the",
            "The pyramids of Giza stand near the river",
            "Ancient Egypt grew along the banks of the",
        ),
    ),
    Fact(
        "Earth's orbit → Sun",
        " Sun",
        (
            "The Earth orbits the",
            "The Earth revolves around the",
            "The planets of the solar system revolve around the",
            "Mercury is the planet closest to the",
            "Copernicus said that the Earth moves around the",
        ),
    ),
)
