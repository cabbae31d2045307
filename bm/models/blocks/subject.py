"""What lets a model differ from one subject to the next."""
import torch
from torch import Tensor, nn


class SubjectLayers(nn.Module):
    """One linear map of the channels per subject, without bias: y[b, :, t] = x[b, :, t] · W[subject b].

    Args:
        in_channels, out_channels: sizes of the map.
        n_subjects: number of maps.
        init_id: start from the identity (divided by sqrt(in_channels)) instead of Gaussian weights.

    Shape: x `(B, C_in, T)`, subject `(B,)` int64 below `n_subjects`, output `(B, C_out, T)`.
    """

    def __init__(self, in_channels: int, out_channels: int, n_subjects: int, init_id: bool = False):
        super().__init__()
        weight = torch.randn(n_subjects, in_channels, out_channels)
        if init_id:
            if in_channels != out_channels:
                raise ValueError(f"subject_layers_id needs equal sizes, got {in_channels} → {out_channels}")
            weight = torch.eye(in_channels).repeat(n_subjects, 1, 1)
        self.weight = nn.Parameter(weight / in_channels ** 0.5)

    def forward(self, x: Tensor, subject: Tensor) -> Tensor:
        return torch.bmm(self.weight[subject].transpose(1, 2), x)


class SubjectEmbedding(nn.Module):
    """A learned vector per subject, repeated over time and appended to the channels.

    It is stored divided by `scale`, which multiplies its effective learning rate by `scale` (Adam's step does not
    depend on the size of the gradient).

    Shape: x `(B, C, T)`, subject `(B,)`, output `(B, C + dim, T)`.
    """

    def __init__(self, n_subjects: int, dim: int, scale: float = 1.0):
        super().__init__()
        if scale <= 0:
            raise ValueError(f"embedding_scale must be positive, got {scale}")
        self.embedding = nn.Embedding(n_subjects, dim)
        with torch.no_grad():
            self.embedding.weight.div_(scale)
        self.scale = scale

    def forward(self, x: Tensor, subject: Tensor) -> Tensor:
        vector = self.embedding(subject) * self.scale
        return torch.cat([x, vector.to(x.dtype)[:, :, None].expand(-1, -1, x.shape[-1])], dim=1)
