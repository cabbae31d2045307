"""What a section of a report is made of."""
import html
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure


@dataclass(frozen=True)
class Part:
    """A titled piece of a report: HTML, or a figure with a caption (plain text)."""

    title: str
    content: str | Figure
    caption: str = ""


def paragraph(text: str) -> str:
    """Plain text as HTML."""
    return f"<p>{html.escape(text)}</p>"


def note(title: str, text: str) -> Part:
    """Something that the reader must be told, e.g. why a figure is missing."""
    return Part(title, f'<div class="alert alert-secondary mb-0">{html.escape(text)}</div>')


def table_html(table: pd.DataFrame, header: bool = True) -> str:
    """A table as HTML; its values are escaped."""
    return table.to_html(index=False, header=header, border=0, justify="left", na_rep="–",
                         classes="table table-sm table-hover w-auto")


def table(title: str, rows: pd.DataFrame, caption: str = "") -> Part:
    """A table, with a line under it."""
    return Part(title, table_html(rows) + (paragraph(caption) if caption else ""))


def percent(value: float) -> str:
    """A fraction as "12.3 %"."""
    return f"{100 * value:.1f} %"
