"""The card of an exported model: what it is, how good, and what it must not be taken for."""
from typing import TYPE_CHECKING, Any

from bm import __version__

if TYPE_CHECKING:
    from bm.analysis.trained import Trained

_CARD = """# bm decoder {sig}

Estimates {features} from {channels} channels ({kinds}), in windows of [{tmin:g}, {tmax:g}] s at {rate:g} Hz. Trained
with bm {version} on the brains of {n_subjects} people ({selections}).

```python
import bm
import mne

decoder = bm.load("{sig}")                       # this folder
raw = mne.io.read_raw("…", preload=False)
found = decoder.predict(raw{subject})
found.times, found.estimates                     # (N,) s, (N, {outputs}, {times})
```

## How good it is

{results}

## What it knows

- Subjects: {subjects}.{personal}
- Preparation, done by `predict`: resampled to {rate:g} Hz{filters}; {baseline}each channel scaled by the median and
  interquartile range of its recording{clip}.
- The numbers above are about other moments of the same kind of recordings, and about telling apart segments of speech
  that was heard. They say nothing about other devices or tasks, about imagined speech, or about single decisions.

## Files

`model.safetensors` (weights and scales), `config.json` (the experiment's config and everything else). Nothing is
executed on loading. The data it was trained on has terms of its own; see those of {selections}.
"""


def card(trained: "Trained") -> str:
    """The card, as Markdown."""
    cfg, spec, dset = trained.cfg, trained.spec, trained.cfg.dset
    personal = " It has weights for each of them and asks for one (`subject=`)."
    asks = trained.personal and len(spec.subjects) > 1
    filters = "".join(f", {name} {value:g} Hz" for name, value in [
        ("high-pass", dset.highpass), ("low-pass", dset.lowpass), ("notch", dset.notch)] if value)
    names = ", ".join(spec.subjects[:10]) + (f", … ({len(spec.subjects)})" if len(spec.subjects) > 10 else "")
    return _CARD.format(
        sig=trained.sig, features=", ".join(feature.name for feature in spec.features), channels=spec.channels,
        kinds=", ".join(trained.kinds), tmin=trained.window.tmin, tmax=trained.window.tmax, rate=spec.sample_rate,
        version=__version__, n_subjects=len(spec.subjects), selections=", ".join(dset.selections),
        subject=f', subject="{spec.subjects[0]}"' if asks else "", outputs=trained.outputs,
        times=trained.window.samples(round(spec.sample_rate)) - trained.finish(0).offset,
        results=_results(trained.results), subjects=names, personal=personal if asks else "", filters=filters,
        baseline="the mean up to the trigger subtracted; " if dset.apply_baseline else "",
        clip=f", clamped at ±{cfg.norm.max_scale:g}" if cfg.norm.clip else "")


def _results(test: dict[str, Any]) -> str:
    """Top-k accuracies with interval, n and chance."""
    ks = [name for name in test if name.startswith("top") and name[3:].isdigit()]
    if not ks:
        return "Its accuracy was not measured."
    lines = ["| | accuracy | 95 % interval | chance |", "|---|---|---|---|"]
    for name in ks:
        low, high = (f"{test[key]:.1%}" if key in test else "–" for key in (f"{name}_low", f"{name}_high"))
        lines.append(f"| top-{name[3:]} | {test[name]:.1%} | {low} to {high} | {test[f'{name}_chance']:.2%} |")
    return "\n".join([*lines, "", f"{test['n']} held-out test segments, each among {test['n_candidates']} different "
                                  "ones."])
