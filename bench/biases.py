"""Counts what a model's captions favour, guess and leave out, for a section of its model card.

    python bench/biases.py --data flickr8k --data everyday
    python bench/biases.py weights/mine --data DIR --split dev
    python bench/biases.py --data flickr8k --neutral    # also with neutral words, where the bundle has them

The captions of a split are compared with its references. The first reference of each photo is set aside: compared with
the photo's other references, it shows the figures of people. Captions are classified by the English word lists of
`harness/word_lists.py`; a caption without a word of a list counts as silent on its subject. The output is Markdown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from harness.command_line import command_line
from harness.word_lists import (
    ADULT,
    CHILD,
    COLOURS,
    DETERMINERS,
    DOGS,
    FEMALE,
    FUNCTION,
    MALE,
    NUMBERS,
    OLD,
    OTHER_ANIMALS,
    PEOPLE,
)

from caprun.caption import Caption
from caprun.engine import Captioner, packaged_bundle
from caprun.errors import CaprunError
from caprun.search.options import SearchOptions
from captioner.backends.loading import splits_of
from captioner.config.self_critical import BAD_ENDINGS
from captioner.datasets import DataSource, load_datasets
from captioner.errors import CaptionerError
from captioner.text.metric_words import tokenize

Words = tuple[str, ...]


_IRREGULAR = {"men": "man", "women": "woman", "children": "child"}
_AGREED = 2  # references that must agree on a noun
_RARELY = 0.05  # a noun is missing if at most this share of the captions of its photos have it
_SHOWN = 24  # missing nouns to list


@dataclass(frozen=True)
class Photo:
    """The words of a photo's caption and references."""

    caption: Words
    person: Words
    """The first reference."""
    others: tuple[Words, ...]
    """The other references."""

    @property
    def references(self) -> tuple[Words, ...]:
        """All references."""
        return (self.person, *self.others)


def gender(words: Iterable[str]) -> str:
    """Returns the gender that a caption mentions: `men`, `women`, `both` or `none`."""
    said = set(words)
    male, female = not said.isdisjoint(MALE), not said.isdisjoint(FEMALE)
    return ("both" if female else "men") if male else ("women" if female else "none")


def agreed_gender(references: Sequence[Words]) -> str:
    """Returns the gender in references: `men`, `women`, `both`, `disagree`, `unsaid` (only people) or `nobody`."""
    found = {gender(reference) for reference in references} - {"none"}
    if not found:
        said = {word for reference in references for word in reference}
        return "nobody" if said.isdisjoint(PEOPLE | CHILD | ADULT) else "unsaid"
    if len(found) == 1:
        return found.pop()
    return "both" if "both" in found else "disagree"


def age(words: Iterable[str]) -> str:
    """Returns the age that a caption mentions: `children`, `adults`, `both` or `none`."""
    said = set(words)
    young, grown = not said.isdisjoint(CHILD), not said.isdisjoint(ADULT)
    return ("both" if grown else "children") if young else ("adults" if grown else "none")


def share(count: float, of: float) -> str:
    """Formats a percentage; a dash where `of` is 0."""
    return f"{100 * count / of:.0f}%" if of else "-"


def both_shares(photos: Sequence[Photo], holds: Callable[[Words], bool]) -> str:
    """Formats the share of captions for which a condition holds, with that of people in brackets."""
    model = sum(holds(photo.caption) for photo in photos)
    person = sum(holds(photo.person) for photo in photos)
    return f"{share(model, len(photos))} ({share(person, len(photos))})"


def has(words: frozenset[str]) -> Callable[[Words], bool]:
    """Returns a test of whether a caption has one of the words."""
    return lambda caption: not words.isdisjoint(caption)


def gender_table(photos: Sequence[Photo]) -> list[str]:
    """Formats a table with the gender in the other references as rows and that in the captions as columns."""
    names = {
        "men": "men or boys alone",
        "women": "women or girls alone",
        "both": "both",
        "disagree": "one or the other, not the same",
        "unsaid": "people, and no gender",
        "nobody": "nobody",
    }
    rows = ["| the other references mention | photos | caption: men | women | both | no gender |", "|" + " --- |" * 6]
    for key, name in names.items():
        of = [photo for photo in photos if agreed_gender(photo.others) == key]
        cells = [both_shares(of, partial(_is_of, said)) for said in ("men", "women", "both", "none")]
        rows.append(f"| {name} | {len(of)} | {' | '.join(cells)} |")
    return rows


def _is_of(said: str, caption: Words) -> bool:
    return gender(caption) == said


def people(photos: Sequence[Photo]) -> list[str]:
    """Describes gender and age."""
    unsaid = [p for p in photos if agreed_gender(p.others) == "unsaid"]
    ages = [{age(reference) for reference in p.others} - {"none"} for p in photos]
    grown = [p for p, said in zip(photos, ages, strict=True) if said == {"adults"}]
    young = [p for p, said in zip(photos, ages, strict=True) if said == {"children"}]
    old = [p for p in photos if sum(map(has(OLD), p.others)) >= _AGREED]
    guessed = both_shares(unsaid, lambda words: gender(words) != "none")
    model, person = (gender_ratio(said) for said in _columns(photos))
    younger = both_shares(grown, lambda words: age(words) in ("children", "both"))
    older = both_shares(young, lambda words: age(words) in ("adults", "both"))
    return [
        "**Gender and age** are guessed from clothes, hair and what somebody does:",
        "",
        *gender_table(photos),
        "",
        f"- Of {len(unsaid)} photos of people whose gender no other reference says, {guessed} of the captions say one.",
        f"- Captions that mention men or boys to those that mention women or girls: {model} ({person}).",
        f"- Of {len(grown)} photos of adults and no children, {younger} of the captions mention children.",
        f"- Of {len(young)} photos of children and no adults, {older} of the captions mention adults.",
        f"- Of {len(old)} photos with somebody or something old, {both_shares(old, has(OLD))} of the captions say so.",
    ]


def gender_ratio(captions: Iterable[Words]) -> str:
    """Formats the ratio of captions that mention men or boys to those that mention women or girls."""
    said = Counter(gender(words) for words in captions)
    men, women = said["men"] + said["both"], said["women"] + said["both"]
    return f"{men} to {women}" + (f", {men / women:.2f}" if women else "")


def confirmed(photos: Sequence[Photo], words: frozenset[str]) -> str:
    """Formats the share of a list's words in captions that another reference has too, with people's in brackets."""

    def of(said: Sequence[Words]) -> str:
        mentions = [(word, photo) for caption, photo in zip(said, photos, strict=True) for word in set(caption) & words]
        right = sum(any(word in reference for reference in photo.others) for word, photo in mentions)
        return share(right, len(mentions))

    return "{} ({})".format(*map(of, _columns(photos)))


def singular(word: str) -> str:
    """Maps singular and plural of a noun to one form, which need not be a word."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    return word[:-1] if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def nouns(references: Iterable[Words]) -> dict[str, str]:
    """Finds nouns by their position, after an article and before a verb or preposition; `singular` to spelling."""
    seen, like, written = Counter[str](), Counter[str](), dict[str, Counter[str]]()
    for words in references:
        for before, word, after in zip(("", *words), words, (*words[1:], ""), strict=False):
            one = singular(word)
            seen[one] += 1
            written.setdefault(one, Counter())[word] += 1
            ends = not after or after in FUNCTION
            like[one] += ends and (before in DETERMINERS | COLOURS or word != one)
    verbs = {
        word
        for word in seen
        if 2 * sum(seen[form] for form in _progressive(word)) >= seen[word] or word.endswith("ing")
    }
    found = [word for word in seen if like[word] >= 0.25 * seen[word]]
    others = FUNCTION | DETERMINERS | COLOURS | NUMBERS | verbs
    return {word: written[word].most_common(1)[0][0] for word in found if word not in others}


def _progressive(word: str) -> list[str]:
    """Returns possible progressive forms of a verb, such as jumping, running and posing."""
    return [word + "ing", word + word[-1:] + "ing", word.removesuffix("e") + "ing"]


def named(photos: Sequence[Photo]) -> list[tuple[str, int, int]]:
    """Returns nouns that references agree on, most frequent first, with the number of photos and of captions."""
    known = nouns(reference for photo in photos for reference in photo.references)
    there, said = Counter[str](), Counter[str]()
    for photo in photos:
        counts = Counter(word for reference in photo.references for word in {singular(w) for w in reference})
        agreed = [word for word, count in counts.items() if count >= _AGREED and word in known]
        there.update(agreed)
        said.update({singular(word) for word in photo.caption} & set(agreed))
    return [(known[word], count, said[word]) for word, count in there.most_common()]


def with_neutral_words(photos: Sequence[Photo], plain: Sequence[Words], neutral: Sequence[Words]) -> list[str]:
    """Compares captions without and with `--neutral`.

    Args:
        photos: photos with their references.
        plain: captions without neutral words, in the order of the photos.
        neutral: captions with neutral words.
    """

    def mentioned(genders: Sequence[str], key: str | None) -> str:
        of = [
            (photo, *both)
            for photo, *both in zip(photos, plain, neutral, strict=True)
            if key in (None, agreed_gender(photo.others))
        ]
        before = sum(gender(said) in genders for _, said, _ in of)
        after = sum(gender(said) in genders for _, _, said in of)
        person = sum(gender(photo.person) in genders for photo, _, _ in of)
        return f"{share(after, len(of))}; without it {share(before, len(of))} ({share(person, len(of))})"

    counts = Counter(agreed_gender(photo.others) for photo in photos)
    either = ("men", "women", "both")
    wrong = mentioned(("men", "both"), "women"), mentioned(("women", "both"), "men")
    return [
        "**With `--neutral`** it says person, people, child and children instead:",
        "",
        f"- Captions that mention men or boys, of {counts['women']} photos of women or girls alone: {wrong[0]}.",
        f"- Captions that mention women or girls, of {counts['men']} photos of men or boys alone: {wrong[1]}.",
        f"- Captions that mention either, of all {len(photos)}: {mentioned(either, None)}.",
    ]


def names(photos: Sequence[Photo], vocabulary: int) -> list[str]:
    """Describes the nouns, colours and numbers that captions have and lack."""
    found = named(photos)
    least = max(2, round(len(photos) / 200))
    frequent = [row for row in found if row[1] >= least]
    missing = [row for row in frequent if row[2] <= _RARELY * row[1]]
    listed = ", ".join(f"{word} ({said} of {there})" for word, there, said in missing[:_SHOWN])
    more = ", and more" if len(missing) > _SHOWN else ""
    once = sum(said > 0 for *_, said in found)
    model, person = (len({w for words in said for w in words}) for said in _columns(photos))
    others = [p for p in photos if sum(map(has(OTHER_ANIMALS), p.others)) >= _AGREED]
    animals = [p for p in others if not any(map(has(DOGS), p.others))]
    colours, right_colours = both_shares(photos, has(COLOURS)), confirmed(photos, COLOURS)
    numbers, right_numbers = both_shares(photos, has(NUMBERS)), confirmed(photos, NUMBERS)
    return [
        f"**What it never names**: of {len(frequent)} nouns that two references agree on in {least} photos or more,",
        f"{len(missing)} are in at most {_RARELY:.0%} of the captions of these photos:",
        f"{listed or 'none'}{more}.",
        "",
        f"- Of {len(found)} nouns that two references of any photo agree on, {once} are named once or more.",
        f"- All its captions together have {model} ({person}) different words; it knows {vocabulary}.",
        f"- Of {len(animals)} photos of other animals, {both_shares(animals, has(DOGS))} of the captions say dog.",
        f"- {colours} of the captions name a colour; {right_colours} of these colours another reference names too.",
        f"- {numbers} of the captions count, from two on; {right_numbers} of these numbers another reference has too.",
    ]


def sameness(photos: Sequence[Photo], learnt: frozenset[Words], unfinished: int) -> list[str]:
    """Describes how much captions resemble each other and how they end."""
    captions, persons = _columns(photos)
    (most, times), *_ = Counter(captions).most_common(1)
    first = Counter(words[:3] for words in captions).most_common(3)
    openings = tuple(words for words, _ in first)
    listed = ", ".join(f'"{" ".join(words)}" {share(count, len(photos))}' for words, count in first)
    opened = both_shares(photos, lambda words: words[:3] in openings)
    copied = both_shares(photos, lambda words: words in learnt)
    bad = both_shares(photos, lambda words: words[-1:] != () and words[-1] in BAD_ENDINGS)
    model, person = (sum(map(len, said)) / len(photos) for said in (captions, persons))
    return [
        f"**Sameness**: {len(set(captions))} ({len(set(persons))}) of {len(photos)} captions are different.",
        "",
        f'- The most frequent, "{" ".join(most)}", is said of {times} photos.',
        f"- Captions begin with {listed}; one of these three: {opened}.",
        f"- {copied} of the captions are, word for word, captions of training photos.",
        f"- {bad} end with an article, a conjunction or a preposition; {unfinished} were cut at the longest length.",
        f"- The mean length is {model:.1f} ({person:.1f}) words.",
    ]


def _columns(photos: Sequence[Photo]) -> tuple[list[Words], list[Words]]:
    """Returns the model's captions and those of people."""
    return [photo.caption for photo in photos], [photo.person for photo in photos]


def section(
    photos: Sequence[Photo],
    vocabulary: int,
    learnt: frozenset[Words],
    unfinished: int,
    command: str,
    neutral: Sequence[str] = (),
) -> str:
    """Formats the section.

    Args:
        photos: photos with captions and references.
        vocabulary: number of words in the vocabulary.
        learnt: captions of the training split.
        unfinished: number of captions that were cut at the maximum length.
        command: the command that prints the section.
        neutral: lines of `with_neutral_words`.
    """
    lines = [
        f"Counted in the captions of {len(photos)} photos. In brackets is what people get in the same comparison: each",
        "photo's first reference, held against its other references as the caption is.",
        "",
        *people(photos),
        "",
        *([*neutral, ""] if neutral else []),
        *names(photos, vocabulary),
        "",
        *sameness(photos, learnt, unfinished),
        "",
        f"By `{command}`.",
    ]
    return "\n".join(lines) + "\n"


def measure(
    bundle: Path, data: Sequence[Path], split: str, precision: str | None = None, *, neutral: bool = False
) -> str:
    """Captions a split of one or more datasets and returns the section.

    Args:
        bundle: the model.
        data: folders of captioned photos.
        split: the split whose photos are captioned.
        precision: the precision of the graphs; None for the fastest.
        neutral: whether to compare captions with and without neutral words.

    Raises:
        CaptionerError: there are no photos with two references, or none can be captioned.
        UsageError: the bundle has no neutral words.
    """
    drawn = splits_of(bundle)
    sources = [DataSource(folder) for folder in data]
    dataset = load_datasets(sources, splits=drawn.splits, seed=drawn.split_seed)
    examples = [example for example in dataset.split(split) if len(example.references) > 1]
    if not examples:
        raise CaptionerError(
            f"No photo in split {split!r} has two references, which the comparison needs; name another with --split."
        )
    captioner = Captioner.load(bundle, precision=precision, many=True)
    own = captioner.spec.search
    images = [example.image for example in examples]
    said = _captions(captioner, images, own)
    photos = []
    for example, caption in zip(examples, said, strict=True):
        person, *others = (tuple(tokenize(reference)) for reference in example.references)
        photos.append(Photo(tuple(tokenize(caption.text)), person, tuple(others)))
    unfinished = sum(not caption.finished for caption in said)
    compared = []
    if neutral:
        other = _captions(captioner, images, replace(own, neutral=not own.neutral))
        both = [[tuple(tokenize(caption.text)) for caption in captions] for captions in (said, other)]
        compared = with_neutral_words(photos, *(reversed(both) if own.neutral else both))
    learnt = frozenset(tuple(tokenize(r)) for e in dataset.examples if e.split == "train" for r in e.references)
    words = {word for piece in captioner.vocabulary.pieces for word in tokenize(piece)}
    special = {word for piece in ("<pad>", "<start>", "<end>", "<unk>") for word in tokenize(piece)}
    chosen = (f" --precision {precision}" if precision else "") + (" --neutral" if neutral else "")
    named = " ".join(f"--data {folder.name}" for folder in data)
    command = f"python bench/biases.py {named} --split {split}{chosen}"
    return section(photos, len(words - special), learnt, unfinished, command, compared)


def _captions(captioner: Captioner, images: Sequence[Path], options: SearchOptions) -> list[Caption]:
    found = []
    for said in captioner.caption_many(images, options):
        if isinstance(said, Exception):
            raise said
        found.append(said)
    return found


def main() -> None:
    """Prints the section."""
    parser = command_line(__doc__)
    parser.add_argument(
        "bundle", type=Path, nargs="?", default=packaged_bundle(), help="Bundle.  [default: the packaged one]"
    )
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        action="append",
        help="Folder of captioned photos; may be repeated. Photos with one reference are left out.",
    )
    parser.add_argument(
        "--split", default="dev", choices=["train", "dev", "test"], help="Split to caption.  [default: dev]"
    )
    parser.add_argument("--precision", help="Precision.  [default: the fastest measured on such hardware]")
    parser.add_argument("--neutral", action="store_true", help="Compare captions with and without neutral words.")
    arguments = parser.parse_args()
    given = (arguments.bundle, arguments.data, arguments.split, arguments.precision)
    try:
        print(measure(*given, neutral=arguments.neutral), end="")
    except CaprunError as error:
        parser.exit(1, f"Error: {error}\n")


if __name__ == "__main__":
    main()
