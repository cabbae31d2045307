"""A pretrained speech network that goes on learning from the sound while the decoder learns from the brain."""
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bm.batch import BatchSpec


class Wav2Vec2(nn.Module):
    """Sound → hidden states of a wav2vec 2.0 (or HuBERT, WavLM) network, at the brain's rate. A feature model.

    Args:
        spec: what a batch holds; its one feature is `Wav2VecChunk`.
        out_channels: must be the network's hidden size.
        model: folder of the network's files, as Hugging Face writes them.
        layers: hidden states to average; 0 is the input of the first layer.
        freeze_convolutions: keep the weights of the convolutions that read the sound, as in fine-tuning for speech
            recognition (Baevski et al. 2020, arXiv:2006.11477).
        random: start from random weights (drawn from torch's generator).

    Shape: `(B, 1, samples)` → `(B, hidden size, round(samples · sample_rate / rate))`, nearest rows in time.
    Errors: ValueError for another feature, another size, or a layer that does not exist.
    """

    def __init__(self, spec: BatchSpec, out_channels: int, *, model: str, layers: Sequence[int] = (14, 15, 16, 17, 18),
                 freeze_convolutions: bool = True, random: bool = False):
        super().__init__()
        from transformers import AutoConfig, AutoModel
        if len(spec.features) != 1 or spec.features[0].dim != 1 or spec.features[0].rate == spec.sample_rate:
            raise ValueError(f"the feature model wav2vec2 learns from the sound: set dset.features=[Wav2VecChunk], not "
                             f"{[feature.name for feature in spec.features]}")
        self.ratio = spec.sample_rate / spec.features[0].rate
        config = AutoConfig.from_pretrained(model)
        if config.hidden_size != out_channels:
            raise ValueError(f"feature_model_params.n_out_channels={out_channels}, but {model} has "
                             f"{config.hidden_size}")
        if not layers or not all(0 <= layer <= config.num_hidden_layers for layer in layers):
            raise ValueError(f"feature_model_params.layers={list(layers)}: expected some of 0 to "
                             f"{config.num_hidden_layers}")
        self.layers = tuple(layers)
        # what SpecAugment hides in training is for speech recognition; layers are dropped nowhere
        config.apply_spec_augment, config.layerdrop = False, 0.0
        self.network: Any = AutoModel.from_config(config) if random else AutoModel.from_pretrained(model, config=config)
        self.network.float()
        if freeze_convolutions:
            self.network.feature_extractor.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        states = self.network(x[:, 0], output_hidden_states=True).hidden_states
        rows = torch.stack([states[layer] for layer in self.layers]).mean(0).transpose(1, 2)
        return nn.functional.interpolate(rows, size=round(x.shape[-1] * self.ratio))
