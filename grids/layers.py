"""Layers of networks against natural-sound fMRI: trained, permuted and untrained, and the spectrotemporal baseline.

`BM_LAYERS_MODELS` names the networks, with blanks or commas between. `dora grid layers` shows the table.
"""
import os

from grids._explorers import LayerExplorer

MODELS = os.environ.get("BM_LAYERS_MODELS", "openai/whisper-tiny.en,facebook/wav2vec2-base").replace(",", " ").split()


@LayerExplorer
def explorer(launcher):
    launcher.bind_(preset="layers")
    with launcher.job_array():
        launcher()
        for model in MODELS:
            sub = launcher.bind({"encoding.model": model})
            sub()
            sub({"encoding.permuted": True})
            sub({"encoding.random": True})
