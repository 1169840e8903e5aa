"""A caption is written into a sidecar, and the rest of the sidecar is kept."""

from __future__ import annotations

import pytest

from caprun.metadata.xmp import ALT_TEXT, DESCRIPTION, Mark, Sidecar

MARK = Mark("caprun 1", "model", "run", 'a "dog" & a <cat>', "0.5")
WRITTEN_BY_PEOPLE = b"""\
<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><!-- a comment -->
 <r:RDF xmlns:r="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <r:Description r:about="uuid:1" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4" xmp:Label="two&#10;lines">
   <dc:description xmlns:dc="http://purl.org/dc/elements/1.1/"><r:Alt>
    <r:li xml:lang="x-default">Grandmother</r:li><r:li xml:lang="de-DE">Oma \xc3\xa4</r:li>
   </r:Alt></dc:description>
   <dc:subject xmlns:dc="http://purl.org/dc/elements/1.1/"><r:Bag><r:li>family</r:li></r:Bag></dc:subject>
  </r:Description>
 </r:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""


def written(content: bytes | None, mark: Mark = MARK, language: str | None = "en") -> Sidecar:
    sidecar = Sidecar(content)
    sidecar.write([DESCRIPTION], mark, language)
    return Sidecar(sidecar.as_bytes())


def test_a_new_sidecar_has_the_caption_and_the_mark_of_its_run() -> None:
    sidecar = written(None)
    assert sidecar.text(DESCRIPTION) == MARK.caption
    assert sidecar.text(ALT_TEXT) == ""
    assert sidecar.mark == MARK
    assert sidecar.is_own(DESCRIPTION)
    assert not sidecar.is_own(ALT_TEXT)
    assert sidecar.as_bytes().count(b'xml:lang="en"') == 1


def test_without_a_language_only_the_default_text_is_written() -> None:
    assert b'xml:lang="en"' not in written(None, language=None).as_bytes()


def test_a_text_without_a_mark_counts_as_a_persons_text() -> None:
    sidecar = Sidecar(WRITTEN_BY_PEOPLE)
    assert sidecar.text(DESCRIPTION) == "Grandmother"
    assert sidecar.mark is None
    assert not sidecar.is_own(DESCRIPTION)


def test_all_other_content_is_kept() -> None:
    content = written(WRITTEN_BY_PEOPLE).as_bytes().decode()
    for kept in (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>',
        "<!-- a comment -->",
        'xmp:Rating="4" xmp:Label="two&#10;lines"',
        "<r:Bag><r:li>family</r:li></r:Bag>",
        '<rdf:li xml:lang="de-DE">Oma ä</rdf:li>',
        'rdf:about="uuid:1"',
    ):
        assert kept in content
    assert "Grandmother" not in content


def test_a_second_caption_replaces_the_first_and_its_mark() -> None:
    once = written(WRITTEN_BY_PEOPLE)
    twice = written(once.as_bytes(), MARK._replace(caption="a horse", run="another"))
    assert twice.text(DESCRIPTION) == "a horse"
    assert twice.mark == MARK._replace(caption="a horse", run="another")
    content = twice.as_bytes()
    assert content.count(b"caprun:run=") == content.count(b"<dc:description") == 1
    assert written(content, twice.mark).as_bytes().count(b"<rdf:Description") == content.count(b"<rdf:Description")


def test_a_caption_that_a_person_changed_counts_as_the_persons_text() -> None:
    changed = written(None).as_bytes().replace(b"a &lt;cat&gt;</rdf:li>", b"my cat</rdf:li>", 1)
    assert not Sidecar(changed).is_own(DESCRIPTION)


@pytest.mark.parametrize(
    "form",
    [
        "<dc:description>Text</dc:description>",
        "<dc:description><rdf:Alt><rdf:li xml:lang='fr'>Text</rdf:li></rdf:Alt></dc:description>",
        "<dc:description><rdf:Seq><rdf:li>Text</rdf:li></rdf:Seq></dc:description>",
    ],
)
def test_other_forms_of_a_description_are_read(form: str) -> None:
    packet = (
        '<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f'<rdf:Description rdf:about="">{form}</rdf:Description></rdf:RDF>'
    )
    assert Sidecar(packet.encode()).text(DESCRIPTION) == "Text"
    assert Sidecar(packet.encode("utf-16")).text(DESCRIPTION) == "Text"
    assert (b">Text<" in written(packet.encode()).as_bytes()) == ("fr" in form)


def test_a_description_in_an_attribute_is_read_and_replaced() -> None:
    packet = (
        b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        b'<rdf:Description rdf:about="" dc:description="Text" dc:format="image/jpeg"/></rdf:RDF>'
    )
    assert Sidecar(packet).text(DESCRIPTION) == "Text"
    content = written(packet).as_bytes()
    assert b'"Text"' not in content
    assert b'dc:format="image/jpeg"' in content


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "cannot be read as XMP"),
        (b"no XML", "cannot be read as XMP"),
        (b'<?xml version="1.0" encoding="nothing"?><a/>', "cannot be read as XMP"),
        (b"<html/>", "no rdf:RDF"),
        (b"<a>" * 3000 + b"</a>" * 3000, "more than 100 deep"),
        (b'<?xml version="1.0" encoding="GBK"?><a>\xb9\xb7</a>', "cannot be read as XMP"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "document type"),
    ],
)
def test_content_that_is_not_xmp_is_refused(content: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        Sidecar(content)


@pytest.mark.parametrize(
    "texts",
    [
        '<rdf:li xml:lang="x-default"/><rdf:li xml:lang="en">By hand</rdf:li>',
        '<rdf:li xml:lang="x-default" rdf:parseType="Resource"><rdf:value>By hand</rdf:value></rdf:li>',
    ],
)
def test_a_text_in_another_language_or_with_qualifiers_is_read(texts: str) -> None:
    content = f"""<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about=""
        xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:description><rdf:Alt>{texts}</rdf:Alt></dc:description>
        </rdf:Description></rdf:RDF>"""
    assert Sidecar(content.encode()).text(DESCRIPTION) == "By hand"


def test_a_caption_changed_only_in_its_language_counts_as_the_persons_text() -> None:
    content = written(None, MARK._replace(caption="a dog")).as_bytes()
    changed = Sidecar(content.replace(b'xml:lang="en">a dog', b'xml:lang="en">Rex'))
    assert Sidecar(content).is_own(DESCRIPTION, "en")
    assert not changed.is_own(DESCRIPTION, "en")


def test_a_language_with_capitals_is_written_only_once() -> None:
    again = written(written(None, language="pt-BR").as_bytes(), language="pt-BR")
    assert again.as_bytes().count(b'xml:lang="pt-BR"') == 1
