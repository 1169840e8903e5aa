"""Counts what a model's captions favour, guess and leave out, for a section of its model card.

    python bench/biases.py --data flickr8k --data everyday
    python bench/biases.py weights/mine --data DIR --split dev
    python bench/biases.py --data flickr8k --neutral    # also with neutral words, where the bundle has them

The captions of a split are compared with its references. The first reference of each photo is set aside and compared
with the photo's other references, which gives the figures for people. Captions are classified by the word lists for the
model's language, English or Chinese, in `harness/word_lists.toml`. A caption without a word of a list counts as not
mentioning its subject. The output is Markdown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from harness.command_line import command_line
from harness.mentions import Photo, agreed_gender, both_shares, columns, gender, has, share, which
from harness.nouns import AGREED, named
from harness.word_lists import Sentence, Words, word_lists

from caprun.caption import Caption
from caprun.engine import Captioner, packaged_bundle
from caprun.errors import CaprunError
from caprun.search.options import SearchOptions
from captioner.backends.loading import splits_of
from captioner.config.self_critical import BAD_ENDINGS
from captioner.datasets import DataSource, load_datasets
from captioner.errors import CaptionerError
from captioner.text.metric_words import segmentation, tokenize

_RARELY = 0.05  # a noun is missing if at most this share of the captions of its photos have it
_SHOWN = 24  # missing nouns to list
_CALLED = {
    "men": "men or boys alone",
    "women": "women or girls alone",
    "both": "both",
    "disagree": "one or the other, not the same",
    "unsaid": "people, and no gender",
    "nobody": "nobody",
}


def people(photos: Sequence[Photo]) -> list[str]:
    """Describes gender and age."""
    by_gender: dict[str, list[Photo]] = {key: [] for key in _CALLED}
    for photo in photos:
        by_gender[agreed_gender(photo.others)].append(photo)

    def cell(of: Sequence[Photo], said: str) -> str:
        return both_shares(of, lambda sentence: gender(sentence) == said)

    rows = [
        f"| {name} | {len(of)} | {' | '.join(cell(of, said) for said in ('men', 'women', 'both', 'none'))} |"
        for of, name in zip(by_gender.values(), _CALLED.values(), strict=True)
    ]
    ages = [{which(one, "children", "adults") for one in p.others} - {"none"} for p in photos]
    grown, young = ([p for p, said in zip(photos, ages, strict=True) if said == {of}] for of in ("adults", "children"))
    old = [p for p in photos if sum(map(has("old"), p.others)) >= AGREED]
    unsaid = by_gender["unsaid"]
    guessed = both_shares(unsaid, lambda said: gender(said) != "none")
    model, person = map(gender_ratio, columns(photos))
    younger, older = both_shares(grown, has("children")), both_shares(young, has("adults"))
    said_old = both_shares(old, has("old"))
    return [
        "**Gender and age** are guessed from clothes, hair and what somebody does:",
        "",
        "| the other references mention | photos | caption: men | women | both | no gender |",
        "|" + " --- |" * 6,
        *rows,
        "",
        f"- Of {len(unsaid)} photos of people whose gender no other reference says, {guessed} of the captions say one.",
        f"- Captions that mention men or boys to those that mention women or girls: {model} ({person}).",
        f"- Of {len(grown)} photos of adults and no children, {younger} of the captions mention children.",
        f"- Of {len(young)} photos of children and no adults, {older} of the captions mention adults.",
        f"- Of {len(old)} photos with somebody or something old, {said_old} of the captions say so.",
    ]


def gender_ratio(captions: Iterable[Sentence]) -> str:
    """Formats the ratio of captions that mention men or boys to those that mention women or girls."""
    said = Counter(gender(caption) for caption in captions)
    men, women = said["men"] + said["both"], said["women"] + said["both"]
    return f"{men} to {women}" + (f", {men / women:.2f}" if women else "")


def with_neutral_words(photos: Sequence[Photo], plain: Sequence[Sentence], neutral: Sequence[Sentence]) -> list[str]:
    """Compares captions without and with `--neutral`.

    Args:
        photos: photos with their references.
        plain: captions without neutral words, in the order of the photos.
        neutral: captions with neutral words.
    """
    agreed = [agreed_gender(photo.others) for photo in photos]

    def mentioned(genders: Sequence[str], *of: str) -> str:
        after, before, person = (
            [gender(one) in genders for one, key in zip(said, agreed, strict=True) if key in of]
            for said in (neutral, plain, columns(photos)[1])
        )
        number = len(after)
        return f"{share(sum(after), number)}; without it {share(sum(before), number)} ({share(sum(person), number)})"

    women, men = mentioned(("men", "both"), "women"), mentioned(("women", "both"), "men")
    return [
        "**With `--neutral`** it says person, people, child and children instead:",
        "",
        f"- Captions that mention men or boys, of {agreed.count('women')} photos of women or girls alone: {women}.",
        f"- Captions that mention women or girls, of {agreed.count('men')} photos of men or boys alone: {men}.",
        f"- Captions that mention either, of all {len(photos)}: {mentioned(('men', 'women', 'both'), *_CALLED)}.",
    ]


def never_named(photos: Sequence[Photo], lists: Mapping[str, frozenset[str]]) -> list[str]:
    """Describes the nouns that captions rarely or never name."""
    references = [[one.words for one in (photo.person, *photo.others)] for photo in photos]
    found = named([photo.caption.words for photo in photos], references, lists)
    least = max(2, round(len(photos) / 200))
    frequent = [row for row in found if row[1] >= least]
    missing = [row for row in frequent if row[2] <= _RARELY * row[1]]
    listed = ", ".join(f"{word} ({said} of {there})" for word, there, said in missing[:_SHOWN])
    once = sum(said > 0 for *_, said in found)
    return [
        f"**What it never names**: of {len(frequent)} nouns that two references agree on in {least} photos or more,",
        f"{len(missing)} are in at most {_RARELY:.0%} of the captions of these photos:",
        f"{listed or 'none'}{', and more' if len(missing) > _SHOWN else ''}.",
        "",
        f"- Of {len(found)} nouns that two references of any photo agree on, {once} are named once or more.",
    ]


def confirmed(photos: Sequence[Photo], subject: str) -> str:
    """Formats the share of a list's words in captions that another reference has too, with people's in brackets."""

    def of(said: Sequence[Sentence]) -> str:
        mentions = [(word, p) for caption, p in zip(said, photos, strict=True) for word in caption.said[subject]]
        right = sum(any(word in other.said[subject] for other in photo.others) for word, photo in mentions)
        return share(right, len(mentions))

    return "{} ({})".format(*map(of, columns(photos)))


def details(photos: Sequence[Photo], vocabulary: int) -> list[str]:
    """Describes the words, animals, colours and numbers that captions have."""
    model, person = (len({word for one in said for word in one.words}) for said in columns(photos))
    others = [p for p in photos if sum(map(has("other_animals"), p.others)) >= AGREED]
    animals = [p for p in others if not any(map(has("dogs"), p.others))]
    colours, right_colours = both_shares(photos, has("colours")), confirmed(photos, "colours")
    numbers, right_numbers = both_shares(photos, has("numbers")), confirmed(photos, "numbers")
    return [
        f"- All its captions together have {model} ({person}) different {_unit(photos)}; it knows {vocabulary}.",
        f"- Of {len(animals)} photos of other animals, {both_shares(animals, has('dogs'))} of the captions say dog.",
        f"- {colours} of the captions name a colour; {right_colours} of these colours another reference names too.",
        f"- {numbers} of the captions count, from two on; {right_numbers} of these numbers another reference has too.",
    ]


def _unit(photos: Sequence[Photo]) -> str:
    return segmentation(" ".join(photo.caption.words) for photo in photos)


def sameness(photos: Sequence[Photo], endings: frozenset[str], learnt: frozenset[Words], unfinished: int) -> list[str]:
    """Describes how much captions resemble each other and how they end.

    Args:
        photos: photos with captions and references.
        endings: articles, conjunctions and prepositions.
        learnt: captions of the training split.
        unfinished: number of captions that were cut at the maximum length.
    """
    captions, persons = ([one.words for one in said] for said in columns(photos))
    unit = _unit(photos)
    space = "" if unit == "characters" else " "
    (most, times), *_ = Counter(captions).most_common(1)
    openings = dict(Counter(words[:3] for words in captions).most_common(3))
    listed = ", ".join(f'"{space.join(words)}" {share(count, len(photos))}' for words, count in openings.items())
    opened = both_shares(photos, lambda said: said.words[:3] in openings)
    copied = both_shares(photos, lambda said: said.words in learnt)
    bad = both_shares(photos, lambda said: not endings.isdisjoint(said.words[-1:]))
    model, person = (sum(map(len, said)) / len(photos) for said in (captions, persons))
    return [
        f"**Sameness**: {len(set(captions))} ({len(set(persons))}) of {len(photos)} captions are different.",
        "",
        f'- The most frequent, "{space.join(most)}", is said of {times} photos.',
        f"- Captions begin with {listed}; one of these three: {opened}.",
        f"- {copied} of the captions are, word for word, captions of training photos.",
        f"- {bad} end with an article, a conjunction or a preposition; {unfinished} were cut at the longest length.",
        f"- The mean length is {model:.1f} ({person:.1f}) {unit}.",
    ]


def measure(bundle: Path, data: Sequence[Path], split: str, *, neutral: bool = False) -> str:
    """Captions a split of one or more datasets and returns the section.

    Args:
        bundle: the model.
        data: folders of captioned photos.
        split: the split whose photos are captioned.
        neutral: whether to compare captions with and without neutral words.

    Raises:
        CaptionerError: there are no photos with two references, none can be captioned, or the language has no lists.
        UsageError: the bundle has no neutral words.
    """
    dataset = load_datasets([DataSource(folder) for folder in data], splits_of(bundle))
    examples = [example for example in dataset.split(split) if len(example.references) > 1]
    if not examples:
        raise CaptionerError(
            f"No photo in split {split!r} has two references, which are needed; name another split with --split."
        )
    captioner = Captioner.load(bundle, many=True)
    language = word_lists(captioner.spec.language or "en")
    lists, own = language.by_subject, captioner.spec.search
    images = [example.image for example in examples]
    captions = _captions(captioner, images, own)
    said = [language.sentence(caption.text) for caption in captions]
    photos = []
    for example, caption in zip(examples, said, strict=True):
        person, *others = map(language.sentence, example.references)
        photos.append(Photo(caption, person, tuple(others)))
    compared = []
    if neutral:
        other = _captions(captioner, images, replace(own, neutral=not own.neutral))
        both = [said, [language.sentence(caption.text) for caption in other]]
        compared = [*with_neutral_words(photos, *(reversed(both) if own.neutral else both)), ""]
    learnt = frozenset(tuple(tokenize(r)) for e in dataset.examples if e.split == "train" for r in e.references)
    known = {word for piece in captioner.vocabulary.pieces for word in tokenize(piece)}
    known -= {word for piece in ("<pad>", "<start>", "<end>", "<unk>") for word in tokenize(piece)}
    model = "" if bundle == packaged_bundle() else f"{bundle.as_posix()} "
    chosen = " --neutral" if neutral else ""
    lines = [
        f"Counted in the captions of {len(photos)} photos. In brackets is what people get in the same comparison: each",
        "photo's first reference, held against its other references as the caption is.",
        "",
        *people(photos),
        "",
        *compared,
        *(never_named(photos, lists) if "determiners" in lists else ["**What it names**:", ""]),
        *details(photos, len(known)),
        "",
        *sameness(photos, lists.get("endings", frozenset(BAD_ENDINGS)), learnt, sum(not c.finished for c in captions)),
        "",
        f"By `python bench/biases.py {model}{' '.join(f'--data {d.name}' for d in data)} --split {split}{chosen}`.",
    ]
    return "\n".join(lines) + "\n"


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
        help="Folder of captioned photos; can be repeated. Photos with one reference are left out.",
    )
    parser.add_argument(
        "--split", default="dev", choices=["train", "dev", "test"], help="Split to caption.  [default: dev]"
    )
    parser.add_argument("--neutral", action="store_true", help="Compare captions with and without neutral words.")
    arguments = parser.parse_args()
    try:
        print(measure(arguments.bundle, arguments.data, arguments.split, neutral=arguments.neutral), end="")
    except CaprunError as error:
        parser.exit(1, f"Error: {error}\n")


if __name__ == "__main__":
    main()
