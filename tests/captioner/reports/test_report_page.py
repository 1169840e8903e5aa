"""`report.html` is well-formed, self-contained, escaped and complete."""

from __future__ import annotations

import re
from contextlib import closing
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from caprun.bundle.vocabulary import Vocabulary
from caprun.engine import Captioner
from captioner.backends.loading import load_captioner
from captioner.config import load_config
from captioner.datasets import load_dataset
from captioner.errors import CaptionerError
from captioner.evaluation.cider import cider_scores
from captioner.evaluation.ngrams import count
from captioner.models.checkpoint import BEST
from captioner.reports.page import Content, report_html, write_report
from captioner.reports.photos import shown_groups
from captioner.reports.run import RunReports
from captioner.text.metric_words import tokenize

VOID = {"img", "meta", "br", "hr", "input", "link", "source"}
SCRIPT = "<script>alert('1')</script>"
METRICS = {
    "split": "dev",
    "photos": 4,
    "references": 8,
    "dev_loss": 1.25,
    "accuracy": 0.5,
    "bleu_4": 0.25,
    "nist_4": 4.0,
}
EPOCHS = [
    {"Epoch": 1.0, "Loss": 2.5, "METEOR": None, "CIDEr": 0.5},
    {"Epoch": 2.0, "Loss": 1.5, "METEOR": None, "CIDEr": 0.75},
]


class Page(HTMLParser):
    """Collects the content of a page; fails at a tag that is not closed, or closed twice."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.text: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"an attribute of {tag} is there twice"
        self.tags.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.text.append((self.open[-1] if self.open else "", data.strip()))

    def texts(self, tag: str) -> list[str]:
        return [text for of, text in self.text if of == tag]

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def captioner(trained):
    return load_captioner(trained / BEST, "cpu")


@pytest.fixture(scope="module")
def examples(shapes):
    return load_dataset(shapes).split("dev")


@pytest.fixture(scope="module")
def captions(captioner, examples):
    return [captioner.caption(example.image).text for example in examples]


@pytest.fixture
def content(captioner, examples, captions):
    return Content("A run", METRICS, captioner, captioner.spec.search, examples, captions)


def test_every_tag_is_closed_and_the_page_has_its_title(content):
    page = Page(report_html(content))
    assert page.texts("title") == page.texts("h1") == ["A run"]
    assert dict(page.tags)["html"] == {"lang": "en"}
    assert {"charset": "utf-8"} in page.all("meta")


def test_the_page_loads_nothing_from_elsewhere(content):
    html = report_html(replace(content, curves=b"png", epochs=EPOCHS, config="[data]"))
    page = Page(html)
    assert {name for name, _ in page.tags}.isdisjoint({"script", "link", "iframe", "object", "base", "form"})
    sources = [value for _, attributes in page.tags for name, value in attributes.items() if name in ("src", "href")]
    assert len(sources) > 4
    assert all(re.match(r"data:image/(png|jpeg);base64,[\w+/]+=*$", source) for source in sources)
    assert "url(" not in html
    assert "@import" not in html
    assert "http" not in re.sub(r"base64,[\w+/=]+", "", html)


def test_every_text_is_escaped(content, captioner, examples):
    wild = f"{SCRIPT} & \"quoted\" 'too' </article>"
    vocabulary = Vocabulary(tuple(f'{SCRIPT}{i}"><b>' for i in range(len(captioner.vocabulary))))
    hostile = [replace(example, references=(wild, *example.references)) for example in examples]
    html = report_html(
        replace(
            content,
            title=wild,
            metrics=METRICS | {"split": wild},
            captioner=Captioner(captioner.spec, vocabulary, captioner.backend),
            examples=hostile,
            config=wild,
        )
    )
    page = Page(html)
    assert {"script", "b"}.isdisjoint(name for name, _ in page.tags)
    assert page.texts("h1") == page.texts("pre") == [wild]
    assert page.texts("li").count(wild) == 4
    assert all(SCRIPT in attributes["alt"] for attributes in page.all("img"))


def test_every_picture_has_an_alternative_text(content, captioner):
    page = Page(report_html(content))
    assert all(attributes["alt"] for attributes in page.all("img"))
    said = page.texts("h3")[2:]  # after the headings of two protocols
    assert [a["alt"] for a in page.all("img") if "width" in a] == said


def test_each_word_has_its_log_probability_and_its_heat_map(content, captioner, examples):
    page = Page(report_html(replace(content, examples=examples[:1], captions=content.captions[:1])))
    words = captioner.caption(examples[0].image).words
    assert page.texts("bdi") == [word.text for word in words]
    assert page.texts("small") == [f"{word.log_prob:.2f}" for word in words]
    assert len(page.all("img")) == 1 + len(words)


def test_a_model_without_attention_has_only_log_probabilities(content, captioner):
    spec = replace(captioner.spec, attention_grid=None)
    blind = Captioner(spec, captioner.vocabulary, captioner.backend)
    page = Page(report_html(replace(content, captioner=blind)))
    assert len(page.all("img")) == 4
    assert page.texts("small")


def test_scores_are_listed_under_their_protocol(content):
    page = Page(report_html(content))
    assert page.texts("h3")[:2] == ["Teacher-forced", "Free-running"]
    assert page.texts("th") == ["Loss", "Accuracy", "BLEU-4", "NIST-4"]
    assert page.texts("td") == ["1.250", "50.0", "25.0", "4.00"]
    meanings = page.texts("p")
    assert all("split dev, 4 photos, 8 references" in meaning for meaning in meanings[:2])


def test_a_bundle_has_no_teacher_forced_scores(content):
    free = {name: value for name, value in METRICS.items() if name not in ("dev_loss", "accuracy")}
    assert "Teacher-forced" not in Page(report_html(replace(content, metrics=free))).texts("h3")


def test_epochs_curves_and_configuration_are_shown_if_known(content):
    assert Page(report_html(content)).texts("h2") == ["Scores", "All photos, best first"]
    page = Page(report_html(replace(content, epochs=EPOCHS, curves=b"png", config="[data]\nviews = 2")))
    assert page.texts("h2") == ["Scores", "Curves", "Epochs", "All photos, best first", "Configuration"]
    assert page.texts("td")[-6:] == ["1", "2.500", "50.0", "2", "1.500", "75.0"]
    assert "METEOR" not in page.texts("th")  # it was not computed


def test_the_best_and_the_worst_by_cider_are_shown(captioner, shapes):
    examples = load_dataset(shapes).split("train")
    captions = [captioner.caption(example.image).text for example in examples]
    groups = shown_groups(captioner, captioner.spec.search, examples, captions, 6)
    scores = cider_scores(
        count([tokenize(c) for c in captions], [[tokenize(r) for r in e.references] for e in examples])
    )
    best, worst, rest = groups["Best by CIDEr"], groups["Worst by CIDEr"], groups["From the whole split"]
    assert [photo.cider for photo in best] == pytest.approx(sorted(scores, reverse=True)[:2], abs=1e-9)
    assert [photo.cider for photo in worst] == pytest.approx(sorted(scores)[:2], abs=1e-9)
    assert len({photo.example.image for photo in (*best, *worst, *rest)}) == 6


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_the_requested_number_of_photos_but_at_least_two_is_shown(captioner, shapes, count):
    examples = load_dataset(shapes).split("train")[:6]
    groups = shown_groups(captioner, captioner.spec.search, examples, ["a"] * 6, count)
    names = [photo.example.image for photos in groups.values() for photo in photos]
    assert len(set(names)) == len(names) == max(2, count)


def test_a_missing_photo_is_left_out(content, examples, tmp_path):
    gone = replace(examples[0], image=tmp_path / "gone.jpg")
    page = Page(report_html(replace(content, examples=[gone, *examples[1:]])))
    assert len([a for a in page.all("img") if "width" in a]) == 3


def test_an_unwritable_report_is_refused_in_one_line(content, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CaptionerError, match=r"^The report .*report.html cannot be written: [^\n]+\.$"):
        write_report(tmp_path / "file" / "report.html", content)


def test_training_ends_with_a_report(captioner, examples, captions, tmp_path):
    from torch import nn

    with closing(RunReports(tmp_path / "my run", load_config(), examples, print)) as reports:
        reports.open([], [], nn.Linear(1, 1))
        reports.step((1, 1, 2.0, 0.5))
        reports.epoch({"epoch": 1.0, **METRICS}, captioner)
        file = reports.finish(captioner, captions, METRICS)
    page = Page(file.read_text(encoding="utf-8"))
    assert file == tmp_path / "my run" / "report.html"
    assert page.texts("h1") == ["Training my run"]
    assert page.texts("h2") == ["Scores", "Curves", "Epochs", "All photos, best first", "Configuration"]


def test_captions_and_references_are_marked_with_their_language_if_known(content, captioner):
    spec = replace(captioner.spec, language="zh")
    page = Page(report_html(replace(content, captioner=Captioner(spec, captioner.vocabulary, captioner.backend))))
    marked = [attributes.get("lang") for name in ("h3", "li", "bdi", "img") for attributes in page.all(name)]
    assert set(marked) == {"zh", None}  # None: headings of tables, heat maps
    assert all(
        attributes["lang"] == "zh" for name in ("h3", "li") for attributes in page.all(name) if "dir" in attributes
    )
    assert not any("lang" in attributes for attributes in Page(report_html(content)).all("li"))
