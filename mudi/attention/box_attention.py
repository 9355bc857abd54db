"""The arithmetic of layout guidance: boxes to weights of pixels and tokens, and those to a bias on attention scores."""

import math
from collections.abc import Sequence

import torch

from mudi.records import CANVAS, Box

Span = tuple[int, ...]


def token_weights(
    boxes: Sequence[Box], spans: Sequence[Span], tokens: int, grid_hw: tuple[int, int], inside: float, outside: float
) -> torch.Tensor:
    """W (h * w, tokens), float32, for a grid of `grid_hw` cells: `inside` or `outside` for tokens in `spans`, else 0.

    `boxes`, one a span, lie on a canvas of 1024 by 1024 that the grid covers; they may overlap. A cell is inside where the box
    covers at least half of it; a box that covers half of none gets the cell it covers most. `spans` are positions of tokens,
    the start mark being 0. ValueError for a box that is empty or off the canvas, and for a token of no or of two subjects.
    """
    check_placement(boxes, spans)
    weights = torch.zeros(math.prod(grid_hw), tokens)
    for box, span in zip(boxes, spans, strict=True):
        if max(span) >= tokens:
            raise ValueError(
                f"token {max(span)} of a subject is beyond the prompt's {tokens} tokens; find the span in the prompt that is drawn"
            )
        column = torch.full((len(weights),), float(outside))
        column[cells_of(box, grid_hw).flatten()] = inside
        weights[:, list(span)] = column[:, None]
    return weights


def check_placement(boxes: Sequence[Box], spans: Sequence[Span]) -> None:
    """ValueError unless there is one box on the canvas, and one span of its own tokens, a subject."""
    positions = [position for span in spans for position in span]
    if len(boxes) != len(spans):
        raise ValueError(f"{len(boxes)} boxes and {len(spans)} token spans; give each subject one box and one span")
    if not all(map(len, spans)) or min(positions, default=0) < 0 or len(set(positions)) < len(positions):
        raise ValueError(f"token spans {[list(span) for span in spans]}: each needs positions from 0 on, which belong to one subject")
    for box in boxes:
        x0, y0, x1, y1 = box
        if not (0 <= x0 < x1 <= CANVAS and 0 <= y0 < y1 <= CANVAS):
            raise ValueError(f"box {list(box)}: is empty or off the canvas; give x0 < x1 and y0 < y1 from 0 to {CANVAS}")


def cells_of(box: Box, grid_hw: tuple[int, int]) -> torch.Tensor:
    """bool (h, w): the cells that a box covers at least half of, else the one that it covers most."""
    (x0, y0, x1, y1), (h, w) = box, grid_hw
    covered = _covered(y0, y1, h)[:, None] * _covered(x0, x1, w)
    cells = covered >= 0.5
    if not cells.any():
        cells.view(-1)[covered.argmax()] = True
    return cells


def _covered(start: float, end: float, count: int) -> torch.Tensor:
    """The share of each of `count` equal cells of the canvas between two edges; float64 (count,)."""
    edges = torch.arange(count + 1, dtype=torch.float64)
    return (edges[1:].clamp(max=end * count / CANVAS) - edges[:-1].clamp(min=start * count / CANVAS)).clamp(min=0)


def score_std(query: torch.Tensor, key: torch.Tensor, real: torch.Tensor | None = None) -> torch.Tensor:
    """The standard deviation (B,), float32 and unbiased, of the scores Q K^T over heads, pixels and real keys.

    `query`: (B, heads, N, d); `key`: (B, heads, S, d); `real`: bool (B, S), None for all. Equal to released code's
    `std` of the scores for a batch of one; here each sample has its own. The scores are not formed: with the means taken
    out of queries and keys, the sum of squares a head is that of four parts without cross terms, none of them negative,
    so that nothing cancels as it would in E[s^2] - E[s]^2.
    """
    query, key = query.float(), key.float()
    pixels, heads = query.shape[2], query.shape[1]
    shown = key.new_ones(key.shape[0], key.shape[2]) if real is None else real.to(key.dtype)
    shown, keys = shown[:, None, :, None], shown.sum(1)[:, None]
    mean_query, mean_key = query.mean(2), (key * shown).sum(2) / keys[..., None]
    query, key = query - mean_query[:, :, None], (key - mean_key[:, :, None]) * shown
    gram_query, gram_key = query.mT @ query, key.mT @ key
    means = (mean_query * mean_key).sum(-1)
    squares = (
        (gram_query * gram_key).sum((-2, -1))
        + pixels * torch.einsum("bhi,bhij,bhj->bh", mean_query, gram_key, mean_query)
        + keys * torch.einsum("bhi,bhij,bhj->bh", mean_key, gram_query, mean_key)
        + pixels * keys * (means - means.mean(1, keepdim=True)) ** 2
    )
    return (squares.sum(1).clamp(min=0) / (heads * pixels * keys[:, 0] - 1)).sqrt()


def attention_bias(
    weights: torch.Tensor, std: torch.Tensor, sigma: float, weight: float, width: int, dtype: torch.dtype
) -> torch.Tensor:  # fmt: skip
    """g * W * ln(1 + sigma^2) * std / sqrt(d), float32 (B, N, S), within half of what `dtype` can hold.

    `weights`: (B, N, S); `std`: (B,); `weight` is g and `width` d. Half, because scores are added: -1e8 is minus infinity in
    float16, and a row of nothing else would be NaN.
    """
    factors = std.float() * (weight * math.log1p(sigma**2) / math.sqrt(width))
    limit = torch.finfo(dtype).max / 2
    return (weights.float() * factors[:, None, None]).clamp(-limit, limit)
