"""The report of an XP: one HTML file that needs nothing else, made of sections.

A section is a function from a `StoredXP` to the parts it has to show; an empty list leaves the section out. To add
one, write such a function and give it a title in `SECTIONS`.
"""
from collections.abc import Callable
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from bm.analysis.report.controls import controls
from bm.analysis.report.experiment import config, environment, leak_audit, overview, training
from bm.analysis.report.parts import Part
from bm.analysis.report.results import examples, metrics, subjects
from bm.analysis.report.sensors import spatial_attention
from bm.analysis.report.stimulus import features
from bm.analysis.xp import StoredXP

if TYPE_CHECKING:
    import mne

Section = Callable[[StoredXP], list[Part]]

SECTIONS: dict[str, Section] = {
    "Experiment": overview,
    "Test": metrics,
    "Subjects": subjects,
    "Controls": controls,
    "Retrieved segments": examples,
    "Sensors": spatial_attention,
    "Features": features,
    "Training": training,
    "Leak audit": leak_audit,
    "Config": config,
    "Environment": environment,
}


def make_report(xp: StoredXP, sections: dict[str, Section] = SECTIONS) -> "mne.Report":
    """The report of an XP (see `StoredXP.require_result`), to be saved as HTML."""
    import mne
    report = mne.Report(title=f"XP {xp.sig}", image_format="png", verbose=False)
    for title, section in sections.items():
        tag = title.lower().replace(" ", "-")
        for part in section(xp):
            if isinstance(part.content, Figure):
                report.add_figure(part.content, part.title, caption=part.caption or None, section=title, tags=(tag,))
            else:
                report.add_html(part.content, part.title, section=title, tags=(tag,))
    return report
