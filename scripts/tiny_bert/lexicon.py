"""Words of the small agreement language: nouns, verbs, adjectives and names, all written by hand.

The same words make the built-in minimal pairs and the training text of tiny-bert, so every built-in
pair is one token per word for that model.
"""

from __future__ import annotations

from dataclasses import dataclass

VOWELS = "aeiou"
# Spelling lies about sound: "an honest man", but "a unique map". One list, so that a/an is right in all text.
AN_EXCEPTIONS = frozenset({"honest", "hour"})
A_EXCEPTIONS = frozenset({"unique", "unified", "useful"})


def article(next_word: str) -> str:
    """`a` or `an`, as the next word asks."""
    word = next_word.lower()
    if word in AN_EXCEPTIONS:
        return "an"
    return "an" if word[0] in VOWELS and word not in A_EXCEPTIONS else "a"


def add_s(word: str) -> str:
    """The regular -s form, the same rule for plural nouns and third-person verbs."""
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return word + "es"
    if word.endswith("y") and word[-2] not in VOWELS:
        return word[:-1] + "ies"
    return word + "s"


@dataclass(frozen=True)
class Noun:
    """One noun in both numbers. A compound ("taxi driver") inflects its last word, its first stays."""

    singular: str
    plural: str
    animate: bool
    prefix: str = ""

    def form(self, plural: bool) -> str:
        word = self.plural if plural else self.singular
        return f"{self.prefix} {word}" if self.prefix else word


@dataclass(frozen=True)
class Verb:
    """One verb: `plain` with plural subjects, `third` with singular ones, `past` with both."""

    plain: str
    third: str
    past: str

    def form(self, plural: bool) -> str:
        return self.plain if plural else self.third


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# None of these is a word of the fact sentences (painter, poet, city ...): it would tilt the modifier counts.
_ANIMATE = _words("""
actor artist author baker banker boy brother clerk cousin daughter dentist doctor driver farmer father
friend gardener girl guest guide hunter king lawyer mayor mechanic merchant mother neighbor nephew niece
officer pilot player prince princess queen rider sailor senator sister soldier son
teacher tourist uncle visitor waiter worker bear bird cat chicken cow crow dog dolphin donkey duck
eagle elephant fox frog giraffe goat hawk horse kitten lion lizard monkey octopus otter owl panda parrot
penguin pig pony rabbit rat shark snake spider tiger turtle whale zebra ant bee
""")
_THINGS = _words("""
apple bag ball banana barn basket bed bell bicycle boat book bottle bowl box bridge brush bucket building
button cake camera candle car carpet castle chair clock cloud coat coin computer cottage cup curtain desk
dish doll door dress drum engine fence flag flower forest garden gate glass guitar hammer hat hill house
island jacket jar key kitchen ladder lake lamp letter library machine map mask mirror mountain museum
nail needle newspaper orange oven pan paper pencil piano picture pillow pipe plate pocket poem
potato rainbow restaurant ribbon river rocket roof rope sandwich school shirt shoe shop sketch
sofa song spoon statue stone story street table tent theater ticket tower toy train tree truck umbrella
valley vase village violin wagon wall window
""")
_IRREGULAR_ANIMATE = {
    "child": "children",
    "man": "men",
    "woman": "women",
    "mouse": "mice",
    "goose": "geese",
    "ox": "oxen",
    "wolf": "wolves",
    "calf": "calves",
    "thief": "thieves",
    "wife": "wives",
    "alumnus": "alumni",
}
_IRREGULAR_THINGS = {
    "foot": "feet",
    "tooth": "teeth",
    "knife": "knives",
    "shelf": "shelves",
    "scarf": "scarves",
    "loaf": "loaves",
    "cactus": "cacti",
    "fungus": "fungi",
    "crisis": "crises",
    "thesis": "theses",
    "oasis": "oases",
    "analysis": "analyses",
    "hypothesis": "hypotheses",
    "phenomenon": "phenomena",
}
_SPELLED_ES = {"potato": "potatoes"}
# No first word is a noun above: "two brick walls" must count as a plural for any counter.
_COMPOUNDS = (
    ("taxi", "driver", True),
    ("bus", "driver", True),
    ("police", "officer", True),
    ("science", "teacher", True),
    ("tennis", "player", True),
    ("coffee", "shop", False),
    ("gift", "shop", False),
    ("pine", "tree", False),
    ("brick", "wall", False),
    ("concert", "ticket", False),
)


def _nouns() -> tuple[Noun, ...]:
    regular = [(word, True) for word in _ANIMATE] + [(word, False) for word in _THINGS]
    nouns = [Noun(word, _SPELLED_ES.get(word, add_s(word)), animate) for word, animate in regular]
    nouns += [Noun(one, many, True) for one, many in _IRREGULAR_ANIMATE.items()]
    nouns += [Noun(one, many, False) for one, many in _IRREGULAR_THINGS.items()]
    by_singular = {noun.singular: noun for noun in nouns}
    nouns += [Noun(head, by_singular[head].plural, animate, prefix=prefix) for prefix, head, animate in _COMPOUNDS]
    return tuple(nouns)


NOUNS = _nouns()


def _verbs(text: str) -> tuple[Verb, ...]:
    """Lines of `plain past`; a past tense of `=` adds -ed by the regular spelling."""
    verbs = []
    for entry in text.split(","):
        plain, past = entry.split()
        if past == "=":
            past = plain + "d" if plain.endswith("e") else plain + "ed"
        verbs.append(Verb(plain, add_s(plain), past))
    return tuple(verbs)


# Verbs whose forms are never forms of a noun above: a word counter must not mistake one for the other.
ANIMATE_INTRANSITIVE = _verbs("""
run ran, sing sang, sleep slept, listen =, laugh =, smile =, wait =, dance =, swim swam, talk =, sit sat,
eat ate, think thought, speak spoke, shout =, whisper =, breathe =, climb =, crawl =, kneel knelt, sneeze =,
yawn =, relax =, hesitate =, complain =, agree =, wander =, pray =, dream =, win won, lie lied, weep wept
""")
ANY_INTRANSITIVE = _verbs("""
fall fell, vanish =, move =, appear =, disappear =, remain =, shine shone, return =, arrive =, shake shook,
grow grew, change =, matter =, spin spun, sink sank, stay =, slide slid, tremble =
""")
TRANSITIVE = _verbs("""
admire =, attack =, avoid =, buy bought, carry carried, clean =, cure =, describe =, discover =, draw drew,
enjoy =, examine =, explore =, fear =, find found, follow =, forget forgot, hate =, hide hid, ignore =,
imagine =, inspect =, know knew, lift =, like =, lose lost, love =, mention =, notice =, observe =, prefer preferred,
protect =, praise =, remember =, remove =, respect =, see saw, sell sold, steal stole, study studied,
touch =, trust =, visit =, want =, watch =, choose chose
""")

ADJECTIVES = _words("""
big small old young red blue green white black yellow happy sad quiet loud brave gentle clever calm strong
weak tall tiny heavy strange famous popular expensive cheap beautiful ugly bright dark dirty empty
important modern ancient wooden honest
""")

NAMES = _words("""
Alice Ben Bella Bruce Cindy Colin Craig Diana Elena Eric Frances Gina Grace Greg Hannah Harold Heidi Irene
Ivan Jason Julia Kevin Laura Lisa Lucas Megan Monica Nina Nora Oscar Paula Peggy Raymond Rosa Ruth Sally
Sandra Tanya Tracy Victor Walter Wendy
""")

PREPOSITIONS = _words("near behind beside above below")
SINGULAR_PRONOUNS = _words("he she it")
PLURAL_PRONOUNS = _words("they we")

# Held out. These nouns never follow a number-marked determiner in the training text (their number can be
# learned from verbs alone); these verbs' present forms never follow a noun or a name there, only pronouns.
HELD_OUT_NOUNS = frozenset(
    _words("""
artist farmer guest king sister pilot owl tiger donkey spider penguin bee woman goose
apple bridge candle desk guitar island mirror piano rocket umbrella window knife cactus
""")
)
HELD_OUT_VERBS = frozenset(_words("sleep dance wait yawn dream vanish shine return admire describe follow watch"))

VERBS = ANIMATE_INTRANSITIVE + ANY_INTRANSITIVE + TRANSITIVE


def is_held_out(word: Noun | Verb) -> bool:
    return word.singular in HELD_OUT_NOUNS if isinstance(word, Noun) else word.plain in HELD_OUT_VERBS
