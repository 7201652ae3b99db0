"""The grid of R-MAC (Tolias, Sicre, Jégou, ICLR 2016): square regions of a map at several scales, and their maxima.

How many regions there are depends on the map's shape, which is not known when a network is traced. Here all that there
can be are computed with tensors, and those that a map does not have come out empty: one graph serves all sizes.

The regions are those of cirtorch's ``rmac`` for every map up to 3.5 times as long as wide. Beyond that, rounding moves
some of cirtorch's by a position, or adds a column of them where two grids are equally good.
"""

import torch
from torch import Tensor

LEVELS = 3
MAX_EXTRA = 6  # regions along the long side of a map beyond those along the short one


def region_maxima(features: Tensor, levels: int = LEVELS) -> tuple[Tensor, Tensor]:
    """The maximum of each channel in each region, and which regions the map has.

    The first region is the whole map. Level l = 1, 2, … has squares with sides of ⌊2w / (l + 1)⌋ positions, w being the
    map's short side: l along the short side and l + m along the long one (``extra_regions``), evenly spaced.

    Args:
        features: [B, C, h, w], not negative.
        levels: of the grid.

    Returns:
        the maxima [B, C, R] with R = 1 + Σ l·(l + 6), zeros where there is no region; and float [R], 1 where there is.
    """
    y, x = (torch.arange(side, device=features.device, dtype=features.dtype) for side in features.shape[2:])
    height, width = y.amax(dim=0) + 1, x.amax(dim=0) + 1
    short, extra = torch.minimum(height, width), extra_regions(height, width)
    is_wide = height <= width
    maxima, exists = [features.amax(dim=(2, 3)).unsqueeze(2)], [features.new_ones(1)]
    for level in range(1, levels + 1):
        most = level + MAX_EXTRA
        window = torch.floor((2 * short + 0.5) / (level + 1))  # the half keeps rounding from the whole quotients
        rows = windows(y, window, torch.where(is_wide, level, level + extra), most)
        columns = windows(x, window, torch.where(is_wide, level + extra, level), most)
        along_short, along_long = (
            torch.arange(level, device=features.device).repeat_interleave(most),
            torch.arange(most, device=features.device).repeat(level),
        )
        row = torch.where(is_wide, along_short, along_long)
        column = torch.where(is_wide, along_long, along_short)
        in_rows = (features.unsqueeze(2) * rows.unsqueeze(2)).amax(dim=3)  # [B, C, most, w]
        maxima.append((in_rows.index_select(2, row) * columns.index_select(0, column)).amax(dim=3))
        exists.append(((along_long < level + extra) & (window > 0)).to(features.dtype))
    return torch.cat(maxima, dim=2), torch.cat(exists)


def extra_regions(height: Tensor, width: Tensor) -> Tensor:
    """m: how many more regions lie along the long side of a map than along the short one, a scalar.

    Of s = 2 … 7 squares with the short side w along the long side W, the paper takes as many as overlap by nearly 40 %,
    the least of |0.6 − (W − w) / (w·(s − 1))|, and m = s − 1; a square map has m = 0. s + 1 is better than s from
    W − w > 6/5·w·s(s − 1) / (2s − 1) on: that is arithmetic of whole numbers, without rounding.
    """
    short = torch.minimum(height, width)
    longer = torch.maximum(height, width) - short
    steps = torch.arange(2, MAX_EXTRA + 1, device=height.device, dtype=height.dtype)
    better = 5 * (2 * steps - 1) * longer > 6 * steps * (steps - 1) * short
    return better.to(height.dtype).sum() + (longer > 0).to(height.dtype)


def windows(positions: Tensor, window: Tensor, count: Tensor, most: int) -> Tensor:
    """Evenly spaced windows along a side.

    Args:
        positions: 0, 1, … along the side, float [n].
        window: positions in each, a scalar.
        count: how many there are, a scalar, at most ``most``.
        most: rows to return.

    Returns:
        float [most, n]: 1 in a window and 0 elsewhere; rows from ``count`` on are 0.
    """
    number = torch.arange(most, device=positions.device, dtype=positions.dtype).unsqueeze(1)
    free = positions.amax(dim=0) + 1 - window
    begin = torch.floor((number * free + 0.5) / (count - 1).clamp(min=1))
    return ((positions >= begin) & (positions < begin + window) & (number < count)).to(positions.dtype)
