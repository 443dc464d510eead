"""One plain, self-contained HTML page out of sections with text, tables and figures.

    page = render_page("Evaluation", sections=[PageSection("Scores", tables=[table])])

All text is escaped; the only thing that goes in as it is are the figures made here.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template
    from markupsafe import Markup
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Table:
    """A table; numbers are set flush right.

    Attributes:
        columns: Column headings.
        rows: One sequence of cells a row; None is shown as a dash.
        caption: Line above the table, or "".
        names_rows: Whether the first cell of a row is the row's heading.
        folded: Whether only the caption is seen until it is opened.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    names_rows: bool = False
    folded: bool = False

    @property
    def number_columns(self) -> set[int]:
        """Columns whose first cell that is not empty is a number."""
        columns = zip(*self.rows, strict=False)
        first = [next((cell for cell in one if cell is not None), None) for one in columns]
        return {n for n, cell in enumerate(first) if isinstance(cell, int | float)}


@dataclass(frozen=True)
class Link:
    """A cell that leads elsewhere.

    Attributes:
        text: What is shown.
        address: Where it leads; "": nowhere.
    """

    text: str
    address: str

    def __str__(self) -> str:
        """What is shown."""
        return self.text


@dataclass(frozen=True)
class PageFigure:
    """An inline figure with its caption, and what it shows as a table, for who cannot see it."""

    svg: "Markup"
    caption: str
    table: Table | None = None


@dataclass(frozen=True)
class PageSection:
    """A part of the page under one heading.

    Attributes:
        title: The heading.
        paragraphs: Running text.
        figures: Inline figures, side by side where there is room.
        tables: Tables, one below the other.
        passages: Pairs of label and preformatted text.
        rows: Rows of such pairs: those of a row stand beside one another where there is room.
    """

    title: str
    paragraphs: Sequence[str] = ()
    figures: Sequence[PageFigure] = ()
    tables: Sequence[Table] = ()
    passages: Sequence[tuple[str, str]] = field(default=())
    rows: Sequence[Sequence[tuple[str, str]]] = field(default=())


def render_page(
    title: str,
    lead: str = "",
    facts: Sequence[tuple[str, Any]] = (),
    sections: Sequence[PageSection] = (),
) -> str:
    """The page as HTML.

    Args:
        title: Heading of the page.
        lead: One or two sentences below it: the result.
        facts: Pairs of name and value, as a small table.
        sections: The rest, in order.
    """
    return template("page.html.j2").render(title=title, lead=lead, facts=facts, sections=sections)


def inline_svg(figure: "Figure", caption: str, table: Table | None = None) -> PageFigure:
    """A matplotlib figure as inline SVG, the same bytes for the same figure.

    Args:
        figure: Made with `matplotlib.figure.Figure`, without pyplot and its global state.
        caption: One line, which also stands in for the picture where it cannot be seen.
        table: What the figure shows.
    """
    import matplotlib
    from markupsafe import Markup, escape

    out = io.StringIO()
    # Paths, not text: a font that the reader lacks would move the labels.
    with matplotlib.rc_context({"svg.hashsalt": caption, "svg.fonttype": "path"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    # What matplotlib says of itself is no part of the figure.
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    # Identifiers are shared by the whole page; matplotlib numbers them anew in each figure.
    prefix = re.sub(r"\W+", "-", caption)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{prefix}-", svg)
    label = escape(caption)
    return PageFigure(
        Markup(svg.replace("<svg", f'<svg role="img" aria-label="{label}"', 1)), caption, table
    )


def format_cell(value: Any) -> str:
    """A cell as it is shown: thousands separated, four significant digits, None as a dash."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@cache
def template(name: str) -> "Template":
    """A template of this folder, which escapes all text and refuses what it does not know."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = format_cell
    return environment.get_template(name)
