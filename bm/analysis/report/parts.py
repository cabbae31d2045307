"""What a section of a report is made of."""
import html
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from matplotlib.figure import Figure

if TYPE_CHECKING:
    import mne


#: pixels of the widest figure
MAX_WIDTH = 850


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
    """A table as HTML, which scrolls where it is wider than the page; its values are escaped."""
    found = table.to_html(index=False, header=header, border=0, justify="left", na_rep="–",
                          classes="table table-sm table-hover w-auto")
    return f'<div style="overflow-x: auto">{found}</div>'


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
    with tempfile.TemporaryDirectory() as folder:
        # a PNG of ours: MNE's own shears figures whose size in pixels is no whole number
        file = Path(folder) / "figure.png"
        for part in parts:
            if isinstance(part.content, Figure):
                part.content.savefig(file, dpi=min(part.content.dpi, MAX_WIDTH / part.content.get_figwidth()))
                report.add_image(file, part.title, caption=part.caption or None, section=section, tags=(tag,))
            else:
                report.add_html(part.content, part.title, section=section, tags=(tag,))
