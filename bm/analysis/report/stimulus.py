"""What the brain is compared with."""
from bm.analysis.plots.features import plot_features, tracks_of
from bm.analysis.report.parts import Part, note
from bm.analysis.xp import NotRestorable, StoredXP

TITLE = "Features over time"
SECONDS = 10.0


def features(xp: StoredXP) -> list[Part]:
    """The features of the first seconds of stimulus, above what is said."""
    trials = xp.get("task.type") == "trf" or (xp.get("task.type") == "encode" and xp.get("model_name") == "encoder")
    if not xp.get("dset.features") or trials:  # XPs of whole trials show their stimuli in the section on encoding
        return []
    try:
        tracks, events, start = tracks_of(xp.restored().data, seconds=SECONDS)
    except NotRestorable as error:
        return [note(TITLE, f"No picture: the data cannot be read again, because {error}.")]
    stop = start + min(SECONDS, max(len(rows) / rate for _, rows, rate in tracks))
    return [Part(TITLE, plot_features(tracks, events, start, stop),
                 f"First recording, from its first block on; as the model is given them but for their scaling. Several "
                 f"dimensions: each standardised over the {stop - start:g} s shown.")]
