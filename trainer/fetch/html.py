"""The prose of an HTML page: headings and paragraphs, without lists of links, tables and code."""

import re
from html.parser import HTMLParser

_BLOCKS = {"p", "h1", "h2", "h3", "h4", "h5", "li", "blockquote", "dt", "dd", "div", "br", "section"}
_DROPPED = {"script", "style", "head", "table", "pre", "nav", "dl"}


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._inside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002  # its signature
        if tag in _DROPPED:
            self._inside.append(tag)
        elif tag in _BLOCKS:
            self.pieces.append("\n\n")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002
        if tag in _BLOCKS:
            self.pieces.append("\n\n")

    def handle_endtag(self, tag: str) -> None:
        if self._inside and tag == self._inside[-1]:
            self._inside.pop()
        elif tag in _BLOCKS:
            self.pieces.append("\n\n")

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.pieces.append(re.sub(r"\s+", " ", data))


def prose(page: str) -> str:
    """Paragraphs, a blank line between them."""
    reader = _Reader()
    reader.feed(page)
    reader.close()
    paragraphs = (re.sub(r" +", " ", part).strip() for part in "".join(reader.pieces).split("\n\n"))
    return "\n\n".join(part for part in paragraphs if part)
