"""What the data of an XP hold: the numbers of a paper's first table."""
import pandas as pd

from bm.data.assemble import Data
from bm.splits import SPLITS


def describe(data: Data) -> pd.DataFrame:
    """One row per study.

    Columns: `study`, `channels` (of the largest montage), `subjects`, `recordings`; of each split `<split>_hours` (of
    brain, summed over recordings), `<split>_segments` (different ones) and `<split>_words` (different ones, that
    begin in its blocks); `overlap`, the share of the test's words that are heard in train.
    """
    studies = pd.Series([recording.study for recording in data.recordings])
    rows = []
    for study in studies.drop_duplicates():
        own = studies.index[studies == study]
        row = {"study": study, "channels": max(len(data.prepared[i].channels) for i in own),
               "subjects": len({data.subjects[i] for i in own}), "recordings": len(own)}
        vocabulary = {}
        for split in SPLITS:
            blocks = data.blocks[(data.blocks["split"] == split) & data.blocks["recording"].isin(own)]
            segments = data.segments[(data.segments["split"] == split) & data.segments["recording"].isin(own)]
            vocabulary[split] = _words(data, blocks)
            row |= {f"{split}_hours": (blocks["stop"] - blocks["start"]).sum() / 3600,
                    f"{split}_segments": segments["candidate"].nunique(), f"{split}_words": len(vocabulary[split])}
        test = vocabulary["test"]
        rows.append(row | {"overlap": len(test & vocabulary["train"]) / len(test) if test else float("nan")})
    return pd.DataFrame(rows)


def _words(data: Data, blocks: pd.DataFrame) -> set[str]:
    """The different words that begin in some blocks, in lower case."""
    found: set[str] = set()
    for recording, own in blocks.groupby("recording"):
        events = data.events[int(recording)]  # type: ignore[call-overload]
        words = events[events["kind"] == "word"]
        inside = pd.IntervalIndex.from_arrays(own["start"], own["stop"], closed="left").get_indexer(words["start"]) >= 0
        found |= set(words.loc[inside, "word"].str.lower())
    return found
