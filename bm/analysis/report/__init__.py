"""The report of an XP: one HTML file that needs nothing else, made of sections.

A section is a function from a `StoredXP` to the parts it has to show; an empty list leaves the section out. To add
one, write such a function and give it a title in `SECTIONS`.
"""
from collections.abc import Callable
from typing import TYPE_CHECKING

from bm.analysis.report.breakdown import breakdown
from bm.analysis.report.classification import attention, classes
from bm.analysis.report.controls import controls
from bm.analysis.report.encoding import encoding
from bm.analysis.report.experiment import config, environment, leak_audit, overview, training
from bm.analysis.report.layers import layers
from bm.analysis.report.parts import Part, fill, new_report
from bm.analysis.report.people import calibration
from bm.analysis.report.reconstruction import reconstruction
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
    "Classes": classes,
    "Layers": layers,
    "Encoding": encoding,
    "Reconstruction": reconstruction,
    "Subjects": subjects,
    "Controls": controls,
    "New people": calibration,
    "Where it comes from": breakdown,
    "Retrieved segments": examples,
    "Sensors": spatial_attention,
    "Attention": attention,
    "Features": features,
    "Training": training,
    "Leak audit": leak_audit,
    "Config": config,
    "Environment": environment,
}


def make_report(xp: StoredXP, sections: dict[str, Section] = SECTIONS) -> "mne.Report":
    """The report of an XP (see `StoredXP.require_result`), to be saved as HTML."""
    report = new_report(f"XP {xp.sig}")
    for title, section in sections.items():
        fill(report, title, section(xp))
    return report
