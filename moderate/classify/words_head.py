"""A tower of CLIP or SigLIP for images, and how well each prompt fits what it sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

from moderate.classify.words import Words


class WithWords(nn.Module):
    """A timm image tower and the vectors of prompts; see `Words` for what its outputs are.

    The weights carry the prefixes `tower.` and `prompts.`. The latter are a linear layer on
    features of length 1: the vectors of the prompts times the checkpoint's scale, and its bias.
    """

    fits: torch.Tensor
    against: torch.Tensor

    def __init__(self, tower: nn.Module, words: Words) -> None:
        super().__init__()
        self.tower = tower
        self.prompts = nn.Linear(words.features, words.columns)
        # Behind the columns stand a zero, which labels have that nothing is against, and a minus
        # infinity, which fills up the shorter rows.
        nothing, absent = words.columns, words.columns + 1
        against = [columns or (nothing,) for columns in words.against]
        self.register_buffer("fits", _table(words.fits, absent), persistent=False)
        self.register_buffer("against", _table(against, absent), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """N x 3 x H x W normalised pixels to N x labels logits."""
        features: torch.Tensor = self.tower(images)
        device = features.device.type
        if device != "meta" and torch.is_autocast_enabled(device):
            # Cosines are multiplied by some 100: what a half precision leaves out would show.
            with torch.autocast(device, enabled=False):
                return self.compare(features.float())
        return self.compare(features)

    def compare(self, features: torch.Tensor) -> torch.Tensor:
        """N x features of the tower to N x labels logits."""
        columns = self.prompts(functional.normalize(features, dim=-1))
        columns = functional.pad(functional.pad(columns, (0, 1)), (0, 1), value=-torch.inf)
        return _log_sum_exp(columns, self.fits) - _log_sum_exp(columns, self.against)


def _table(rows: Sequence[Sequence[int]], absent: int) -> torch.Tensor:
    """The columns of each row: rows x the most that one has, filled up with `absent`."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[absent] * (longest - len(row))] for row in rows])


def _log_sum_exp(columns: torch.Tensor, table: torch.Tensor) -> torch.Tensor:
    """N x columns to N x rows: torch.logsumexp over the columns of each row of a table.

    Of the operations that programs have.
    """
    values = columns.index_select(1, table.reshape(-1)).reshape(-1, *table.shape)
    largest = values.amax(-1, keepdim=True)
    return (values - largest).exp().sum(-1).log() + largest.squeeze(-1)
