"""The tables of a report, read back from its HTML or from its Markdown by a parser that knows nothing of ours."""

from html.parser import HTMLParser

from markdown_it import MarkdownIt

__all__ = ["interval_of", "tables", "tables_of_markdown"]

MARKS = {"better": " ▼", "worse": " ▲"}  # what a browser adds by the page's style

Table = list[list[str]]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tables: list[Table] = []
        self._inside = False
        self._mark = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self._inside = True
            self._mark = MARKS.get(dict(attrs).get("class") or "", "")
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = False
            self.tables[-1][-1][-1] = " ".join(self.tables[-1][-1][-1].split()) + self._mark

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.tables[-1][-1][-1] += data


def tables(html: str) -> list[Table]:
    """Each table's rows of cells, as their texts."""
    reader = _Reader()
    reader.feed(html)
    return reader.tables


def tables_of_markdown(text: str) -> list[Table]:
    return tables(MarkdownIt("commonmark").enable("table").render(text))


def interval_of(cell: str) -> list[float | None]:
    """Median, low and high of a cell such as "2 [1, missed] ▼"; None for what is no finite number."""
    words = cell.rstrip(" ▼▲").replace("[", "").replace("]", "").replace(",", "").split()
    return [None if word in ("missed", "failed", "∞", "–") else float(word) for word in words]
