"""Gender-neutral English words, from which the neutral words of a bundle are chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product

from caprun.bundle.neutral_words import NeutralWords
from caprun.bundle.vocabulary import Vocabulary


def _words(table: str) -> dict[str, tuple[str, ...]]:
    """Parses lines of neutral words (best first), a colon, and the gendered words that they replace."""
    lines = [line.split(":") for line in table.strip().splitlines()]
    return {word: tuple(neutral.split()) for neutral, gendered in lines for word in gendered.split()}


# Words that do not guess a person's gender are left out on purpose (`snowman`, `superman`, `king` as in king-size), and
# so is `cowboy`, which mostly precedes `hat`. `her` is mostly a possessive in captions.
WORDS: Mapping[str, tuple[str, ...]] = _words("""
    person: man woman guy lady gentleman male female dude gal fellow mans womans bride groom
    person: businessman businesswoman fisherman salesman saleswoman waiter waitress hostess stewardess
    people: men women guys ladies gentlemen males females dudes gals fellows brides grooms bridesmaids groomsmen
    people: businessmen businesswomen fishermen salesmen waiters waitresses
    child: boy girl lad lass schoolboy schoolgirl
    children: boys girls lads lasses schoolboys schoolgirls
    they: he she
    them: him
    their: his her
    theirs: hers
    themselves: himself herself
    parent person: mother father mom dad mum mommy daddy mama papa
    parents people: mothers fathers moms dads mums
    grandparent person: grandmother grandfather grandma grandpa
    grandparents people: grandmothers grandfathers grandmas grandpas
    child: son daughter grandson granddaughter nephew niece
    children: sons daughters grandsons granddaughters nephews nieces
    sibling child person: brother sister
    siblings children people: brothers sisters
    spouse partner person: husband wife
    spouses partners people: husbands wives
    partner friend person: boyfriend girlfriend
    partners friends people: boyfriends girlfriends
    relative person: uncle aunt
    relatives people: uncles aunts
    officer person: policeman policewoman
    officers police people: policemen policewomen
    firefighter person: fireman
    firefighters people: firemen
    worker person: workman repairman
    workers people: workmen repairmen
    photographer person: cameraman
    performer person: actress
    athlete person: sportsman sportswoman
    athletes people: sportsmen sportswomen
    rider person: horseman horsewoman
    riders people: horsemen horsewomen
    batter player person: batsman
    player person: baseman
    person's: man's woman's guy's lady's
    people's: men's women's
    child's: boy's girl's
    children's: boys' girls'
""")
"""Neutral words for each gendered word, in lower case; the first one in the vocabulary is used."""

_PAIRS = {"person": "people", "child": "children", "parent": "parents", "sibling": "siblings"}
_ADJECTIVES = {"person": ("young", "old", "older", "elderly"), "child": ("young", "little", "small")}
_AGREEMENT = {
    "a officer": "an officer",
    "a athlete": "an athlete",
    "an person": "a person",  # an actress, an uncle
    "an performer": "a performer",
    "an relative": "a relative",
    "they is": "they are",
    "they was": "they were",
    "they has": "they have",
}


def _phrases() -> Iterator[tuple[str, str]]:
    """Yields replacements for repeated nouns (`a man and a woman`), then for words that no longer agree."""
    for one, many in _PAIRS.items():
        for adjective in ("", *_ADJECTIVES.get(one, ())):
            article = "an" if adjective[:1] in ("o", "e") else "a"
            single, several = f"{adjective} {one}".strip(), f"{adjective} {many}".strip()
            yield f"{article} {single} and {article} {single}", f"two {several}"
            yield f"{article} {single} and {one}", f"two {several}"
            if adjective:
                yield f"{article} {single} and a {one}", f"two {many}"
        yield f"one {one} and one {one}", f"two {many}"
        yield f"the {one} and the {one}", f"the two {many}"
        yield f"the {one} and {one}", f"the two {many}"
        yield f"two {many} and two {many}", f"four {many}"
        yield f"{many} and {many}", many
        yield f"person {one}", one  # after `male` and `female`
    yield from _AGREEMENT.items()


PHRASES: Mapping[str, str] = dict(_phrases())
"""Replacements for phrases that neutral words make clumsy, in lower case."""

_MARKS = ("a", "the")  # a vocabulary with these words is English
_CASES: tuple[Callable[[str], str], ...] = (str, str.capitalize)


def neutral_words(vocabulary: Vocabulary, language: str | None = None) -> NeutralWords | None:
    """Chooses the neutral words that are in a vocabulary.

    Args:
        vocabulary: vocabulary of the captions; at least some pieces must be words.
        language: language code; None to detect it from the vocabulary.

    Returns:
        Entries whose pieces are all in the vocabulary, in lower case and capitalised; None if there are none.
    """
    pieces, start = set(vocabulary.pieces), vocabulary.joining.word_start
    if (language or "en").partition("-")[0].lower() != "en" or not all(start + mark in pieces for mark in _MARKS):
        return None
    words = {
        start + written(word): start + written(neutral)
        for written in _CASES
        for word, choices in WORDS.items()
        if start + written(word) in pieces
        for neutral in [c for c in choices if start + written(c) in pieces][:1]
    }
    phrases = {}
    for (phrase, instead), written in product(PHRASES.items(), _CASES):
        both = [[start + word for word in written(one).split()] for one in (phrase, instead)]
        if all(word in pieces for words_ in both for word in words_):
            phrases[" ".join(both[0])] = " ".join(both[1])
    return NeutralWords("en", words, phrases) if words else None
