"""What a section of a report is made of."""
import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.figure import Figure

if TYPE_CHECKING:
    import mne


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


def new_report(title: str) -> "mne.Report":
    """An empty report."""
    import mne
    return mne.Report(title=title, image_format="png", verbose=False)


def fill(report: "mne.Report", section: str, parts: Sequence[Part]) -> None:
    """Adds parts to a section of a report."""
    tag = section.lower().replace(" ", "-")
    for part in parts:
        if isinstance(part.content, Figure):
            report.add_figure(part.content, part.title, caption=part.caption or None, section=section, tags=(tag,))
        else:
            report.add_html(part.content, part.title, section=section, tags=(tag,))
