"""Reads and writes an XMP sidecar: the file next to a photo in which photo software keeps its description.

Everything else in a sidecar is kept: other properties, other languages, comments, prefixes. See the XMP specification
(ISO 16684-1), part 1, and the IPTC Photo Metadata Standard for the alternative text.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple
from xml.dom.minidom import Attr, CDATASection, Comment, Element, Node, ProcessingInstruction, Text, parseString
from xml.parsers.expat import ExpatError, ParserCreate
from xml.sax.saxutils import escape, quoteattr

_META, _RDF = "adobe:ns:meta/", "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XML, _XMLNS = "http://www.w3.org/XML/1998/namespace", "http://www.w3.org/2000/xmlns/"
_MARK = "urn:caprun:xmp:1/"
_DEFAULT = "x-default"
_DEEPEST = 100
_EMPTY = b"""\
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""/>
 </rdf:RDF>
</x:xmpmeta>
"""


class Property(NamedTuple):
    """An XMP property with a text in several languages."""

    namespace: str
    prefix: str
    name: str


DESCRIPTION = Property("http://purl.org/dc/elements/1.1/", "dc", "description")
ALT_TEXT = Property("http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/", "Iptc4xmpCore", "AltTextAccessibility")


class Mark(NamedTuple):
    """A record that caprun stores next to a caption, to tell it from a person's text."""

    tool: str
    """Program and version."""
    model: str
    run: str
    """Digest of everything that the caption depends on besides the photo."""
    caption: str = ""
    confidence: str = ""
    """Empty if the model has none."""


class Sidecar:
    """The content of a sidecar, parsed from the bytes of its file; None makes a new one.

    Raises:
        ValueError: The content is not XMP; the message is a phrase without the file's name.
    """

    def __init__(self, content: bytes | None) -> None:
        content = _EMPTY if content is None else content
        try:
            _refuse_hostile(content)
            self._document = parseString(content)  # noqa: S318  (without a document type there are no entities)
        except (ExpatError, LookupError, ValueError) as error:
            raise ValueError(f"cannot be read as XMP ({error})") from None
        packets = self._document.getElementsByTagNameNS(_RDF, "RDF")
        if not packets:
            raise ValueError("is not XMP (it has no rdf:RDF)")
        self._rdf = packets[0]

    @property
    def mark(self) -> Mark | None:
        """The mark of the caption that caprun wrote last; None if it never wrote one."""
        found = {name: self._simple(Property(_MARK, "caprun", name)) for name in Mark._fields}
        return Mark(**found) if found["caption"] else None

    def text(self, of: Property) -> str:
        """Returns the default text of a property, or else a text in another language; empty if there is none."""
        items = sorted(self._items(of), key=lambda item: _language(item) != _DEFAULT)
        texts = (_text(item).strip() for item in items)
        return next(filter(None, texts), "") if items else self._simple(of).strip()

    def is_own(self, of: Property, language: str | None = None) -> bool:
        """Returns whether the text of a property, also in `language`, is still the caption that caprun wrote."""
        mark = self.mark
        items = (item for item in self._items(of) if language and _language(item) == language.lower())
        texts = {self.text(of), *(_text(item).strip() for item in items)}
        return mark is not None and texts == {mark.caption.strip()}

    def write(self, properties: Sequence[Property], mark: Mark, language: str | None) -> None:
        """Sets properties to the caption of `mark`, as the default and in `language`; keeps other languages."""
        for name in Mark._fields:
            self._remove(_MARK, name)
        about = next((one.getAttributeNS(_RDF, "about") for one in self._descriptions()), "")
        own = self._document.createElementNS(_RDF, "rdf:Description")
        own.setAttributeNS(_XMLNS, "xmlns:rdf", _RDF)
        own.setAttributeNS(_XMLNS, "xmlns:caprun", _MARK)
        own.setAttributeNS(_RDF, "rdf:about", about)
        for name, value in mark._asdict().items():
            own.setAttributeNS(_MARK, f"caprun:{name}", value)
        languages = [_DEFAULT, *([language] if language else [])]
        replaced = {"", *map(str.lower, languages)}
        for one in properties:
            others = [
                (item.getAttributeNS(_XML, "lang"), _text(item))
                for item in self._items(one)
                if _language(item) not in replaced
            ]
            self._remove(one.namespace, one.name)
            element = self._document.createElementNS(one.namespace, f"{one.prefix}:{one.name}")
            element.setAttributeNS(_XMLNS, f"xmlns:{one.prefix}", one.namespace)
            texts = self._document.createElementNS(_RDF, "rdf:Alt")
            for lang, text in [*((lang, mark.caption) for lang in languages), *others]:
                item = self._document.createElementNS(_RDF, "rdf:li")
                item.setAttributeNS(_XML, "xml:lang", lang)
                item.appendChild(self._document.createTextNode(text))
                texts.appendChild(item)
            element.appendChild(texts)
            own.appendChild(element)
        for description in self._descriptions():
            if _is_bare(description):  # left behind by an earlier caption
                self._rdf.removeChild(description)
        self._rdf.appendChild(own)
        self._rdf.appendChild(self._document.createTextNode("\n"))

    def as_bytes(self) -> bytes:
        """Returns the content of the file, in UTF-8."""
        pieces = ['<?xml version="1.0" encoding="UTF-8"?>\n']
        for node in self._document.childNodes:
            pieces += _written(node)
            pieces.append("\n")
        return "".join(pieces).encode("utf-8", "replace")  # a model name can have bytes that are not UTF-8

    def _descriptions(self) -> list[Element]:
        return _children(self._rdf, _RDF, "Description")

    def _elements(self, of: Property) -> list[Element]:
        return [found for one in self._descriptions() for found in _children(one, of.namespace, of.name)]

    def _simple(self, of: Property) -> str:
        """Returns a text without languages, which is an element or an attribute of the description."""
        attributes = [one.getAttributeNS(of.namespace, of.name) for one in self._descriptions()]
        return "".join([*attributes, *map(_text, self._elements(of))])

    def _items(self, of: Property) -> list[Element]:
        """Returns the texts of a property in file order, one for each language."""
        containers = [child for element in self._elements(of) for child in element.childNodes]
        return [item for one in containers if isinstance(one, Element) for item in _children(one, _RDF, "li")]

    def _remove(self, namespace: str, name: str) -> None:
        for description in self._descriptions():
            if description.hasAttributeNS(namespace, name):
                description.removeAttributeNS(namespace, name)
            for element in _children(description, namespace, name):
                description.removeChild(element)


def _refuse_hostile(content: bytes) -> None:
    """Refuses a document type before its definitions are read, and elements nested too deep for minidom."""
    depth = 0

    def refuse(*_: object) -> None:
        raise ValueError("it has a document type, which XMP does not allow")

    def enter(*_: object) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise ValueError(f"it nests elements more than {_DEEPEST} deep")

    def leave(*_: object) -> None:
        nonlocal depth
        depth -= 1

    parser = ParserCreate()
    parser.StartDoctypeDeclHandler, parser.StartElementHandler, parser.EndElementHandler = refuse, enter, leave
    parser.Parse(content, True)


def _children(parent: Element, namespace: str, name: str) -> list[Element]:
    return [
        child
        for child in parent.childNodes
        if isinstance(child, Element) and (child.namespaceURI, child.localName) == (namespace, name)
    ]


def _language(item: Element) -> str:
    return item.getAttributeNS(_XML, "lang").lower()


def _text(element: Element) -> str:
    """Returns the text of an element, including that of nested elements such as rdf:value."""
    children = (_text(child) if isinstance(child, Element) else child for child in element.childNodes)
    return "".join(one if isinstance(one, str) else one.data for one in children if isinstance(one, str | Text))


def _is_bare(description: Element) -> bool:
    """Returns whether a description has no properties, neither as elements nor as attributes."""
    attributes: list[Attr] = list(description.attributes.values())
    only_space = all(isinstance(child, Text) and not child.data.strip() for child in description.childNodes)
    return only_space and {one.namespaceURI for one in attributes} <= {_RDF, _XMLNS}


def _written(node: Node) -> Iterator[str]:
    """Writes a node as XML; minidom's own writer would turn line breaks in attributes into spaces."""
    if isinstance(node, Element):
        attributes = "".join(f" {name}={quoteattr(value)}" for name, value in node.attributes.items())
        if not node.childNodes:
            yield f"<{node.tagName}{attributes}/>"
            return
        yield f"<{node.tagName}{attributes}>"
        for child in node.childNodes:
            yield from _written(child)
        yield f"</{node.tagName}>"
    elif isinstance(node, CDATASection | Comment | ProcessingInstruction):
        yield node.toxml()
    elif isinstance(node, Text):
        yield escape(node.data, {"\r": "&#13;"})
