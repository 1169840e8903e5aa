"""Generated sections of a model card: counts of biases, and judgements that match their captions."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "bench"))  # as `python bench/NAME.py` does

import biases  # noqa: E402
import judgements  # noqa: E402
import model_card  # noqa: E402
from harness import nouns  # noqa: E402
from harness.word_lists import Sentence, word_lists  # noqa: E402
from PIL import Image  # noqa: E402

from captioner.errors import CaptionerError  # noqa: E402

ENGLISH, CHINESE = word_lists("en"), word_lists("zh")


def said(*captions: str) -> tuple[Sentence, ...]:
    return tuple(map(ENGLISH.sentence, captions))


def photo(caption: str, person: str, *others: str) -> biases.Photo:
    return biases.Photo(*said(caption, person), said(*others))


# --- biases


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("a man runs", "men"),
        ("a girl with her dog", "women"),
        ("a man and a woman", "both"),
        ("two people and a human", "none"),
        ("", "none"),
    ],
)
def test_the_gender_in_a_caption_is_the_one_its_words_mention(caption, found):
    assert biases.gender(ENGLISH.sentence(caption)) == found


@pytest.mark.parametrize(
    ("references", "found"),
    [
        (("a man runs", "a person runs"), "men"),
        (("a woman runs", "she runs"), "women"),
        (("a man and a woman", "two people"), "both"),
        (("a man runs", "a woman runs"), "disagree"),
        (("a person runs", "somebody runs"), "unsaid"),
        (("a child plays",), "unsaid"),
        (("a dog runs", "snow"), "nobody"),
    ],
)
def test_references_are_combined_into_one_gender(references, found):
    assert biases.agreed_gender(said(*references)) == found


def test_genders_that_no_reference_mentions_are_counted_for_model_and_people():
    photos = [
        photo("a man runs", "a person runs", "somebody runs", "a runner"),
        photo("a woman runs", "a boy runs", "somebody runs", "a runner"),
        photo("a dog", "a dog", "somebody runs", "a runner"),
        photo("a person", "a person", "somebody runs", "a runner"),
    ]
    assert "- Of 4 photos of people whose gender no other reference says, 50% (25%) of the captions say one." in (
        biases.people(photos)
    )


def test_a_colour_counts_as_right_if_another_reference_mentions_it():
    photos = [
        photo("a red and blue car", "a red car", "a red car", "a car"),
        photo("a green car", "a black car", "a black car", "a car"),
    ]
    assert biases.confirmed(photos, "colours") == "33% (100%)"
    assert biases.confirmed(photos, "numbers") == "- (-)"


def test_nouns_match_in_singular_and_plural_and_verbs_are_not_nouns():
    cats = ["a cat stands", "a cat is standing", "the cats are standing on a wall"]
    dog = ["a cat is standing on a wall", "a cat on the wall", "a cat"]
    references = [[tuple(text.split()) for text in texts] for texts in (cats, cats, cats, dog)]
    captions = [tuple(text.split()) for text in ("two cats are standing",) * 3 + ("a dog",)]
    found = {word: counts for word, *counts in nouns.named(captions, references, ENGLISH.by_subject)}
    assert found["cat"] == [4, 3]
    assert found["wall"] == [1, 0]
    assert not {"stands", "standing", "are", "a", "two"} & set(found)
    texts = ["a dog runs", "a dog is running", "a man poses", "a man is posing", "two runs", "their poses"]
    assert set(nouns.nouns((tuple(text.split()) for text in texts), ENGLISH.by_subject)) == {"dog", "man"}


@pytest.mark.parametrize(
    ("caption", "subjects"),
    [
        ("两个小男孩在马路上弹吉他", {"men", "children", "numbers"}),
        ("穿黑色衣服的男女", {"colours", "men", "women"}),
        ("老人和三轮车", {"old", "adults"}),
        ("热狗", set()),
    ],
    ids=["two boys, a road, a guitar", "black clothes, men and women", "old person and tricycle", "hot dog"],
)
def test_words_in_a_language_without_spaces_match_longest_first(caption, subjects):
    found = {subject for subject, words in CHINESE.sentence(caption).said.items() if words}
    assert found - {"others", "endings"} == subjects


def test_a_language_without_word_lists_is_refused_by_name():
    with pytest.raises(CaptionerError, match=r"no word lists for captions in 'de'; add them to .*word_lists\.toml\.$"):
        word_lists("de")


def test_repeated_captions_and_copies_of_training_captions_are_counted():
    photos = [photo("a dog runs on", "a dog runs", "a dog")] * 3 + [photo("the end of a", "one", "two")]
    found = "\n".join(biases.sameness(photos, frozenset({"a"}), frozenset({photos[0].caption.words}), 1))
    assert "2 (2) of 4 captions are different" in found
    assert '"a dog runs on", is said of 3 photos' in found
    assert '"a dog runs" 75%' in found
    assert "- 75% (0%) of the captions are, word for word, captions of training photos." in found
    assert "- 25% (0%) end with an article" in found


def test_captions_are_counted_with_and_without_neutral_words():
    photos = [
        photo("a man runs", "a girl runs", "a woman runs", "a runner"),
        photo("a woman runs", "a woman runs", "a woman runs", "a runner"),
        photo("a boy runs", "a person runs", "a man runs", "he runs"),
        photo("a dog", "a dog", "a dog", "a dog"),
    ]
    neutral = said("a person runs", "a person runs", "a woman runs", "a dog")
    found = biases.with_neutral_words(photos, [one.caption for one in photos], neutral)
    assert found[2:] == [
        "- Captions that mention men or boys, of 2 photos of women or girls alone: 0%; without it 50% (0%).",
        "- Captions that mention women or girls, of 1 photos of men or boys alone: 100%; without it 0% (0%).",
        "- Captions that mention either, of all 4: 25%; without it 75% (50%).",
    ]


def test_an_empty_caption_of_a_single_photo_is_counted():
    photos = [photo("", "a", "b")]
    assert "| nobody | 1 | 0% (0%) | 0% (0%) | 0% (0%) | 100% (100%) |" in biases.people(photos)
    assert "- All its captions together have 0 (1) different words; it knows 3." in biases.details(photos, 3)
    assert "- The mean length is 0.0 (1.0) words." in biases.sameness(photos, frozenset("a"), frozenset(), 0)


# --- judgements


SAID = {
    "cat.webp": SimpleNamespace(text="a dog", confidence=0.25),
    "sign.webp": SimpleNamespace(text="a man", confidence=None),
}
CASES = (
    judgements.Case("cat.webp", "a cat", "a dog", "no dog"),
    judgements.Case("sign.webp", "a sign", "a man", "nobody"),
)


def test_each_picture_is_a_row_with_its_caption_confidence_and_judgement():
    rows = judgements.section("failures", CASES, SAID, "there").splitlines()
    assert rows[2] == '| <img src="there/cat.webp" width="160" alt="a cat"> | a cat | "a dog" | 0.25 | no dog |'
    assert rows[3] == '| <img src="there/sign.webp" width="160" alt="a sign"> | a sign | "a man" |  | nobody |'


def test_a_judgement_of_a_different_caption_is_refused_naming_the_picture():
    said = {**SAID, "cat.webp": SimpleNamespace(text="a cat", confidence=None)}
    with pytest.raises(CaptionerError, match=r"cat\.webp \('a dog' was judged, the caption is 'a cat'\)"):
        judgements.section("failures", CASES, said, "there")


def test_an_update_drops_only_the_judgements_of_changed_captions():
    said = {**SAID, "cat.webp": SimpleNamespace(text="a cat", confidence=None)}
    cat, sign = judgements.updated(CASES, said)
    assert (cat.caption, cat.judgement) == ("a cat", "")
    assert sign == CASES[1]
    with pytest.raises(CaptionerError, match=r"No judgement of cat\.webp"):
        judgements.section("failures", (cat, sign), said, "there")


def test_a_picture_without_a_caption_is_refused_with_the_next_step():
    cases = (judgements.Case("cat.webp", "a cat"), CASES[1])
    with pytest.raises(
        CaptionerError, match=r"No judgement of cat\.webp; run `.* failures --update`, then write it in"
    ):
        judgements.section("failures", cases, SAID, "there")


@pytest.mark.parametrize(("name", "most"), [("examples", 80_000), ("failures", 60_000)])
def test_the_pictures_are_small_and_each_has_its_licence(name, most):
    folder = judgements.FOLDERS[name].resolve()
    licences = (folder / "LICENCES.md").read_text()
    files = {(folder / case.picture).resolve() for case in judgements.read_cases(folder)}
    assert {file for file in folder.iterdir() if file.suffix in (".jpg", ".webp")} <= files
    for file in files:
        assert file.name in licences
        assert file.parent.name == "examples" or file.stat().st_size <= most


def test_there_are_at_least_eight_examples_of_at_most_640_pixels():
    photos = [
        judgements.FOLDERS["examples"] / case.picture for case in judgements.read_cases(judgements.FOLDERS["examples"])
    ]
    assert len(photos) >= 8
    for photo in photos:
        with Image.open(photo) as image:
            assert max(image.size) <= 640


def test_pictures_are_linked_relative_to_the_page(tmp_path, monkeypatch):
    folder = tmp_path / "examples" / "failures"
    folder.mkdir(parents=True)
    monkeypatch.setattr(judgements, "ROOT", tmp_path)
    monkeypatch.setattr(judgements, "FOLDERS", {"failures": folder})
    monkeypatch.setattr(judgements, "captions", lambda *_: list(SAID.values()))
    case = '[[case]]\npicture = "{0}.webp"\nshows = "a {0}"\ncaption = "{1}"\njudgement = "{2}"\n'
    (folder / judgements.JUDGEMENTS).write_text(
        case.format("cat", "a dog", "no dog") + case.format("sign", "a man", "nobody")
    )
    found = judgements.measure("failures", tmp_path, tmp_path / "docs" / "page.md")
    assert '| <img src="../examples/failures/cat.webp" width="160"' in found


def test_an_update_writes_the_current_captions_to_be_judged(tmp_path, monkeypatch):
    monkeypatch.setattr(judgements, "FOLDERS", {"failures": tmp_path})
    monkeypatch.setattr(judgements, "ROOT", tmp_path)
    monkeypatch.setattr(judgements, "captions", lambda *_: [SAID["cat.webp"]])
    (tmp_path / judgements.JUDGEMENTS).write_text('[[case]]\npicture = "cat.webp"\nshows = "a cat"\n')
    with pytest.raises(CaptionerError, match=r"No judgement of cat\.webp"):
        judgements.measure("failures", tmp_path, tmp_path / "page.md", update=True)
    assert judgements.read_cases(tmp_path) == (judgements.Case("cat.webp", "a cat", "a dog"),)


# --- the card


def test_a_section_replaces_the_previous_one_and_nothing_else():
    text = "before\n<!-- a -->\nold\n<!-- end -->\nbetween\n<!-- b -->\n<!-- end -->\nafter\n"
    once = model_card.with_section(text, "a", "new\n")
    assert once == text.replace("old\n", "\nnew\n\n")
    assert model_card.with_section(once, "a", "new\n") == once
    with pytest.raises(CaptionerError, match="no section c"):
        model_card.with_section(text, "c", "new")


@pytest.mark.parametrize(
    ("introduction", "names"),
    [("checkpoints/everyday_lite2.md", ["examples", "failures", "biases"]), ("zh/card.md", ["biases"])],
)
def test_the_introduction_of_a_model_has_markers_for_its_sections(introduction, names):
    text = (ROOT / "weights" / introduction).read_text()
    assert model_card.sections_of(text) == names
    for name in names:
        assert model_card.with_section(text, name, "x") != text


def test_a_card_that_cannot_be_written_leaves_the_introduction(tmp_path, monkeypatch):
    def fails(*_: object) -> None:
        raise CaptionerError("The disk is full.")

    introduction = tmp_path / "card.md"
    introduction.write_text("<!-- examples -->\n<!-- end -->\n")
    monkeypatch.setattr(judgements, "measure", lambda *_: "new")
    monkeypatch.setattr(model_card, "write_card", fails)
    tiny = ROOT / "tests" / "tiny" / "bundle"
    monkeypatch.setattr(sys, "argv", ["", str(tiny), "--data", "none", "--introduction", str(introduction)])
    with pytest.raises(SystemExit):
        model_card.main()
    assert introduction.read_text() == "<!-- examples -->\n<!-- end -->\n"


def test_a_new_card_leaves_the_rest_of_the_bundle_unchanged(tmp_path):
    import shutil

    from caprun.bundle.reading import read_bundle

    tiny = shutil.copytree(ROOT / "tests" / "tiny" / "bundle", tmp_path / "bundle")
    before = {file.name: file.read_bytes() for file in tiny.iterdir()}
    model_card.write_card(tiny, "Said anew.")
    after = {file.name: file.read_bytes() for file in tiny.iterdir()}
    assert b"Said anew." in after["MODEL_CARD.md"]
    assert {name for name in after if after[name] != before.get(name)} <= {"MODEL_CARD.md", "model.json", "vocab.json"}
    assert after.keys() == before.keys() | {"MODEL_CARD.md"}
    read_bundle(tiny)
