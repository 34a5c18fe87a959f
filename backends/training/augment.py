"""Random changes of images that leave their class alone, drawn from PyTorch's global generator."""

from __future__ import annotations

import torch
from torch.nn import functional


def shift(x: torch.Tensor, most: int) -> torch.Tensor:
    """Each image of x [N, C, H, W] moved by up to `most` pixels along both axes; zeros come in at the borders."""
    count, _, height, width = x.shape
    padded = functional.pad(x, (most, most, most, most))
    start = torch.randint(0, 2 * most + 1, (2, count, 1)).to(x.device)
    rows = (start[0] + torch.arange(height, device=x.device))[:, :, None]
    columns = (start[1] + torch.arange(width, device=x.device))[:, None, :]
    image = torch.arange(count, device=x.device)[:, None, None]
    return padded[image, :, rows, columns].permute(0, 3, 1, 2).contiguous()


def flip(x: torch.Tensor) -> torch.Tensor:
    """Half of the images of x [N, C, H, W], by chance, mirrored left to right."""
    chosen = (torch.rand(len(x)) < 0.5).to(x.device)
    return torch.where(chosen[:, None, None, None], x.flip(3), x)
