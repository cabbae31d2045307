"""The report of a grid: its decoders side by side, from evaluation files alone."""
import html
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from bm.analysis.grids import (
    Evaluated,
    controls_table,
    decoder_names,
    main_table,
    pooled_tests,
    pretty,
    studies_table,
    subjects_table,
)
from bm.analysis.plots.grids import plot_decoders, plot_differences
from bm.analysis.report.parts import Part, fill, new_report, note, percent, table

if TYPE_CHECKING:
    import mne


def grid_tables(evaluated: list[Evaluated], k: int, reference: str | None = None) -> dict[str, pd.DataFrame]:
    """All tables of the report by file name: `main_table`, `subjects`, `tests`, `controls`, `studies`."""
    main = main_table(evaluated, k, reference=reference)
    subjects = subjects_table(evaluated, k)
    base = reference or decoder_names([one.config for one in evaluated])[1]
    return {"main_table": main, "subjects": subjects, "tests": pooled_tests(subjects, base),
            "controls": controls_table(evaluated, k), "studies": studies_table(evaluated)}


def grid_parts(evaluated: list[Evaluated], tables: Mapping[str, pd.DataFrame], k: int, folder: Path
               ) -> dict[str, list[Part]]:
    """Sections and their parts; links are relative to `folder`."""
    main, subjects, tests, controls = (tables[name] for name in ("main_table", "subjects", "tests", "controls"))
    base = decoder_names([one.config for one in evaluated])[1]
    caption = (f"Top-{k} accuracy, mean over subjects ± deviation over seeds; 95 % bootstrap over subjects (fewer than "
               "three: over subjects and blocks of stimulus). Difference: to the first row of each study; effect: rank-"
               "biserial; p: two-sided signed-rank test over subjects, p_fdr corrected within the study.")
    parts = [table("Main table", pretty(main), caption), Part("Decoders", plot_decoders(main, subjects, k))]
    if len(tests):
        shown = tests.assign(difference=[f"{100 * value:+.1f}" for value in tests["difference"]],
                             **{name: [f"{value:.2g}" for value in tests[name]] for name in ("effect", "p", "p_fdr")}
                             ).drop(columns="sem")
        parts += [Part("Differences", plot_differences(tests, base)),
                  table("Over the subjects of all studies", shown, f"Each decoder against {base!r}.")]
    return {"Comparison": parts, "Controls": _controls(controls),
            "Data": [table("Studies", tables["studies"].round(3))], "XPs": [_links(evaluated, k, folder)]}


def _controls(controls: pd.DataFrame) -> list[Part]:
    if controls.empty:
        return [note("No control was evaluated", "python -m scripts.run_eval_probs grid_name=… control=all")]
    surviving = controls[controls["survives"]]
    verdict = ("No control that should be at chance lies above it." if surviving.empty else
               f"{len(surviving)} CONTROLS SURVIVE: their decoders find a way around the brain.")
    shown = controls.assign(**{name: [percent(value) if value == value else "–" for value in controls[name]]
                               for name in ("accuracy", "low", "high", "chance")},
                            survives=controls["survives"].map({True: "ABOVE CHANCE", False: ""}))
    return [table("Controls", shown, verdict)]


def _links(evaluated: list[Evaluated], k: int, folder: Path) -> Part:
    found, _ = decoder_names([one.config for one in evaluated])
    rows = []
    for name, one in zip(found, evaluated, strict=True):
        report = one.folder.parents[2 if one.folder.name == one.sig else 3] / "xps" / one.sig / "report.html"
        there = html.escape(os.path.relpath(report, folder))
        link = f'<a href="{there}">{one.sig}</a>' if report.exists() else one.sig
        rows.append({"XP": link, "decoder": html.escape(name), "seed": one.seed, "study": html.escape(one.study),
                     f"top-{k}": percent(one.accuracy.loc[k, "acc_segment"]), "n": int(one.accuracy.loc[k, "n"])})
    content = pd.DataFrame(rows).to_html(index=False, border=0, justify="left", escape=False,
                                         classes="table table-sm table-hover w-auto")
    return Part("All XPs", content)


def make_grid_report(name: str, evaluated: list[Evaluated], tables: Mapping[str, pd.DataFrame], k: int, folder: Path
                     ) -> "mne.Report":
    """The report, to be saved as HTML in `folder`."""
    report = new_report(f"Grid {name}")
    for section, parts in grid_parts(evaluated, tables, k, folder).items():
        fill(report, section, parts)
    return report
