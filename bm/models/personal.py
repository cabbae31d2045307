"""Weights that a network has for each subject, and those of subjects whom it was not trained on."""
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bm.models.blocks.spatial import SpatialAttention
from bm.models.blocks.subject import SubjectEmbedding, SubjectLayers


def personal_weights(modules: nn.Module) -> list[str]:
    """Names of the parameters whose first axis is the subject."""
    names = []
    for name, module in modules.named_modules():
        if isinstance(module, SubjectLayers):
            names.append(f"{name}.weight")
        elif isinstance(module, SubjectEmbedding):
            names.append(f"{name}.embedding.weight")
        elif isinstance(module, SpatialAttention) and module.per_subject:
            names.append(f"{name}.heads")
    return names


def replace_weights(weights: Mapping[str, Tensor], names: Sequence[str], sources: Mapping[int, Sequence[int]]) -> None:
    """In place: gives each subject of `sources` the mean of the weights of the subjects named there.

    The maps of all subjects lead to the same space, the one that later layers read, so that they can be averaged.

    Args:
        weights: tensors by name, whose first axis is the subject for `names`.
    """
    with torch.no_grad():
        for name in names:
            before = weights[name].clone()
            for subject, others in sources.items():
                weights[name][subject] = before[list(others)].mean(0)
