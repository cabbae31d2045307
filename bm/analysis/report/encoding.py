"""Encoders: scores of units, receptive fields, attention, and predicted beside measured responses."""
from collections.abc import Sequence

import numpy as np
import pandas as pd

from bm.analysis.encoder_attention import time_lock
from bm.analysis.encoder_views import View, field_frames, look_inside, mel_frequencies
from bm.analysis.encoders import (
    TASKS,
    Encoder,
    caution,
    choose_reference,
    encoder_table,
    pretty,
    read_encoders,
    unit_table,
)
from bm.analysis.plots.attention_time import plot_attention
from bm.analysis.plots.encoders import plot_encoders, plot_lags, plot_pairs, plot_responses, plot_waveform
from bm.analysis.plots.sensors import plot_topomaps
from bm.analysis.plots.strf import plot_courses, plot_strfs
from bm.analysis.report.parts import Part, note, table
from bm.analysis.xp import NotRestorable, StoredXP

N_FIELDS, N_RESPONSES = 4, 3
CAPTION = ("Median over units of the correlation r of predictions with the mean response over all test stimuli; 95 % "
           "bootstrap over stimuli (other stimuli, the same units). ccnorm: what is predicted of what could be, "
           "where stimuli were repeated; of the same draws. Difference: median over units, to the row without one; p: "
           "signed-rank test over units, p_fdr corrected for the number of rows. Units of one person are not "
           "independent, so p is too small; the interval does not suppose that they are.")


def encoding(xp: StoredXP) -> list[Part]:
    """The section of one XP of task encode or trf (forward)."""
    if (xp.get("task.type") not in TASKS or xp.get("trf.direction") != "forward" or xp.result is None
            or (xp.get("task.type") == "encode" and xp.get("model_name") != "encoder")):
        return []
    try:
        encoders = read_encoders([xp])
    except FileNotFoundError as error:
        return [note("No scores of units", str(error))]
    views = view_parts(encoders)
    scores = table("Scores", pretty(encoder_table(encoders)), _caption(encoders).split(" Difference")[0])
    return [scores, *unit_parts(encoders), *(part for parts in views.values() for part in parts)]


def _caption(encoders: Sequence[Encoder]) -> str:
    """Begins with what is to be said of few stimuli."""
    few = caution(encoders)
    return f"{few}. {CAPTION}" if few else CAPTION


def comparison(encoders: Sequence[Encoder], scores: pd.DataFrame, reference: str | None = None
               ) -> dict[str, list[Part]]:
    """Sections of the page of several encoders; `scores` is their `encoder_table`."""
    base = choose_reference(encoders, reference)
    parts = [table("Encoders", pretty(scores), _caption(encoders)), Part("Scores", plot_encoders(scores))]
    units = unit_table(encoders)
    if len(encoders) > 1 and len(units) > 1:
        parts.append(Part("Unit by unit", plot_pairs({one.name: units[one.name].to_numpy() for one in encoders},
                                                     base.name),
                          "Each encoder on its own test stimuli; dashed: as good as the reference."))
    xps = pd.DataFrame([{"encoder": one.name, "XP": xp.sig, "fold": xp.get("dset.fold"), "seed": xp.get("seed"),
                         "command": "dora run " + " ".join(xp.overrides)} for one in encoders for xp in one.xps])
    return {"Comparison": parts, "Units": unit_parts(encoders), **view_parts(encoders), "XPs": [table("XPs", xps)]}


def unit_parts(encoders: Sequence[Encoder]) -> list[Part]:
    """Maps of r where units have a place, medians by region where they have one, and the best units."""
    units = unit_table(encoders)
    names = [one.name for one in encoders]
    known = units[names].notna().all(axis=1)
    placed = known & units[["layout_x", "layout_y"]].notna().all(axis=1)
    parts = []
    if len(units.loc[placed, ["layout_x", "layout_y"]].drop_duplicates()) >= 4:
        where = units[placed]
        parts.append(Part("Scores on the head", plot_topomaps(
            where[names].to_numpy().T, where[["layout_x", "layout_y"]].to_numpy(), names, "r"),
            f"r of {len(where)} units, means over those at one place (also of several people)."))
    regions = units[known & (units["region"].fillna("") != "")]
    if regions["region"].nunique() > 1:
        medians = regions.groupby("region")[names].median().round(3)
        medians.insert(0, "units", regions.groupby("region").size())
        parts.append(table("By region", medians.reset_index(), "Medians of r over the units of each region."))
    best = units.loc[units[names].mean(axis=1).sort_values(ascending=False, kind="stable").index[:10]]
    parts.append(table("Best units", best[["subject_name", "name", *names]].round(3),
                       f"The 10 of {len(units)} with the highest mean r over the encoders shown: chosen by the same "
                       "test stimuli, so their scores are too high."))
    return parts


def best_units(encoders: Sequence[Encoder], n: int) -> list[tuple[str, str]]:
    """The units of one subject with the highest mean r over encoders: the best unit's subject."""
    mean = unit_table(encoders).set_index(["subject_name", "name"])[[one.name for one in encoders]].mean(axis=1)
    order = [unit for unit, r in mean.sort_values(ascending=False, kind="stable").items() if np.isfinite(r)]
    return [unit for unit in order if unit[0] == order[0][0]][:n]


def view_parts(encoders: Sequence[Encoder]) -> dict[str, list[Part]]:
    """Sections on what the encoders have learned of the best units."""
    units, frames = best_units(encoders, N_FIELDS), field_frames([one.xps[0] for one in encoders])
    views, shown, notes = [], [], []
    for one in encoders:
        try:
            views.append(look_inside(one, units, frames))
            shown.append(one)
        except NotRestorable as error:
            notes.append(note(f"{one.name} is not shown", f"It cannot be restored, because {error}."))
    if not views:
        return {"Receptive fields": notes}
    return {"Receptive fields": [*_fields(views, encoders, units), *_waveforms(views), *notes],
            "Attention over lags": _attention(views),
            "Attention over the sound": [part for view, one in zip(views, shown, strict=True)
                                         for part in _over_the_sound(view, one)],
            "Predicted responses": _responses(views, units)}


def _fields(views: list[View], encoders: Sequence[Encoder], units: list[tuple[str, str]]) -> list[Part]:
    """Kernels and gradient maps of units in a row, a figure for each kind of features."""
    kind = {one.name: ", ".join(one.xps[0].get("dset.features")) for one in encoders}
    parts = []
    for features, bands in dict.fromkeys((kind[view.name], view.fields.shape[1]) for view in views):
        own = [view for view in views if (kind[view.name], view.fields.shape[1]) == (features, bands)
               and np.isfinite(view.fields).all()]
        if not own:
            parts.append(note(f"No receptive field of {features}", "A unit without a kernel is among the best."))
            continue
        if bands == 1:
            courses = {view.name: (view.courses[0], view.courses[1][:, 0]) for view in own}
            parts.append(Part(f"Receptive fields: {features}", plot_courses(courses, [name for _, name in units]),
                              "Above 0: more of the feature, more response. A TRF's kernel at all its lags, or the "
                              "gradient of a network's response at the mean stimulus; each divided by its largest "
                              "absolute value, so sizes do not compare."))
            continue
        frames = min(view.fields.shape[2] for view in own)
        maps = np.stack([view.fields[:, :, -frames:] for view in own], axis=1)
        largest = np.abs(maps).max((2, 3), keepdims=True)
        maps = maps / np.where(largest > 0, largest, 1)
        xps = [one.xps[0] for one in encoders if one.name == own[0].name]
        hertz = mel_frequencies(xps[0])
        figure = plot_strfs(maps, own[0].rate, None if hertz is None or len(hertz) != bands else hertz.tolist(),
                            [name for _, name in units], [view.name for view in own], columns=len(own))
        parts.append(Part(f"Receptive fields: {features}", figure,
                          "Red: more sound, more response. A TRF's kernel, or the gradient of a network's response at "
                          "the mean stimulus; each divided by its largest absolute value, so sizes do not compare. "
                          "Lags before the sound, which a TRF may have, are not shown."))
    return parts


def _attention(views: list[View]) -> list[Part]:
    profiles = {view.name: view.attention for view in views if view.attention is not None}
    if not profiles:
        return []
    return [Part("Attention over lags", plot_lags(profiles, views[0].rate),
                 "Mean over heads and test stimuli; dashed: the same at all lags. The states that are attended to hold "
                 "what came before them, so a peak is at the latency of the response or later in the window.")]


def _over_the_sound(view: View, encoder: Encoder) -> list[Part]:
    """One window of a stimulus with its attention, and whether attention follows the sound."""
    if not view.attended:
        return []
    first, window = view.attended[0], view.attended[0].weights.shape[2]
    hertz = mel_frequencies(encoder.xps[0])
    bands = hertz if hertz is not None and len(hertz) == first.sound.shape[1] else np.arange(first.sound.shape[1])
    end = max(window, (len(first.sound) + 1) // 2)
    figure = plot_attention(first.weights.mean(0)[end - 1], first.sound[end - window:end], bands, view.rate,
                            title=f"{view.name}: {first.stimulus}, {end / view.rate:.2f} s")
    caption = ("The window up to the middle of a test stimulus, not chosen by its scores; attention is the mean over "
               "heads" + ("." if bands is hertz else "; bands are counted, as their frequencies are not known."))
    long = [one for one in view.attended if len(one.sound) >= 2 * window]
    if not long:
        return [Part(f"Attention of {view.name}", figure, f"{caption} No stimulus is twice as long as the window, so "
                     "that it is not known whether attention follows the sound.")]
    found = time_lock([one.weights.mean(0) for one in long], [one.sound for one in long])
    return [Part(f"Attention of {view.name}", figure, caption), note(
        f"Does the attention of {view.name} follow the sound?",
        f"Time-lock p = {found.p:.3g} (strength {found.strength:.3f}, {len(long)} test stimuli; chance: each lag "
        f"shifted on the sound's circle). {100 * found.followed.mean():.1f} % of frames keep attention while they move "
        "through the window; 5 % would by chance. A large p: attention goes by lag, whatever is heard.")]


def _waveforms(views: list[View]) -> list[Part]:
    """What a unit listens to in the samples of a sound, of encoders that hear them."""
    return [Part(f"Waveform: {view.name}", plot_waveform(heard.wave, heard.gradient, heard.rate, heard.unit),
                 f"A stretch of test stimulus {view.stimulus}, and the gradient of the response in its last frame with "
                 "respect to each sample.") for view in views if (heard := view.waveform) is not None]


def _responses(views: list[View], units: list[tuple[str, str]]) -> list[Part]:
    same = [view for view in views if view.stimulus == views[0].stimulus
            and view.predicted.shape == views[0].predicted.shape]
    names = [name for _, name in units[:N_RESPONSES]]
    figure = plot_responses(views[0].measured[:, :N_RESPONSES],
                            {view.name: view.predicted[:, :N_RESPONSES] for view in same}, views[0].rate, names)
    return [Part("Predicted and measured", figure, f"Test stimulus {views[0].stimulus}, not chosen by its scores; mean "
                 "over repeats. Each curve is standardised: a wrong scale or offset of a prediction is not seen here.")]
