"""Layout guidance: cross-attention edited so that each subject's words act inside its box alone.

Cones2 (Liu et al. 2023, arXiv 2305.19327) and its released code. In the conditional pass every cross-attention layer of the
chosen levels computes, with the unscaled scores S = Q K^T of width d and noise level sigma,

    A = softmax((S + g * W * ln(1 + sigma^2) * std(S)) / sqrt(d)),

W (pixels, tokens) being `inside` in a subject's box and `outside` everywhere else for that subject's tokens, 0 for others. The
logarithm lets the strengthening fade; the weakening stays a hard mask down to the last step. Departures from the released code:
cross-attention is told by its text states and not by 77 tokens, so that unpadded prompts are edited too; boxes are averaged by
area, where bilinear resizing would carry -1e8 into the cells along their edges; the largest factor is left out by not editing it
(released code, asked to, falls back to a map of full size); the scores are never formed.

The MuDI paper (appendix B.2) finds the maps of SDXL inconsistent between blocks and saw no gain from regional prompting;
pooled text, the end mark and padding are not edited and still tell every pixel of all subjects. Expect weak control there.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from mudi.attention.box_attention import Span, attention_bias, check_placement, score_std, token_weights
from mudi.attention.levels import chosen_levels
from mudi.options import LayoutGuidance
from mudi.records import Box

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

Placement = tuple[Sequence[Box], Sequence[Span]]

# The UNet turns a mask of 1 and 0 into 0 and -10000 on the scores.
MASKED_BELOW = -5000.0


def edit_sigmas(sigmas: Sequence[float], alphas: Sequence[float], options: LayoutGuidance) -> list[float | None]:
    """The noise level that the edit sees at each step of the sampler, None from the first unedited step on.

    `sigmas` (steps + 1,) are the sampler's levels, the last one 0, `alphas` (T,) the cumulative signal shares of the
    training timesteps. With `shift_schedule`, and n edited steps, they are sqrt((1 - a) / a) at n timesteps spaced evenly
    from T - 1 to 0, interpolated between timesteps: diffusers' LMSDiscreteScheduler as released code sets it, whatever
    spacing the sampler has. n = 1 is timestep 0 there. A redone step sees the same level again.
    """
    total = len(sigmas) - 1
    edited = total if options.steps is None else min(options.steps, total)
    if options.shift_schedule:
        a = np.asarray(alphas, dtype=np.float64)
        timesteps = np.linspace(0, len(a) - 1, edited)[::-1]
        levels = np.interp(timesteps, np.arange(len(a)), np.sqrt((1 - a) / a)).tolist()
    else:
        levels = [float(sigma) for sigma in sigmas[:edited]]
    return levels + [None] * (total - edited)


@dataclass(kw_only=True)
class _Edit:
    """What the layers of one UNet share: `sigma` is None while the edit is off, `maps` keeps W of each level and token count."""

    options: LayoutGuidance
    levels: tuple[int, ...]
    rows: Sequence[Placement | None]
    latent_hw: tuple[int, int]
    sigma: float | None = None
    maps: dict = field(default_factory=dict)

    def factor(self, pixels: int) -> int:
        return round(math.sqrt(math.prod(self.latent_hw) / pixels))

    def weights(self, pixels: int, tokens: int, device: torch.device) -> torch.Tensor:
        """W (B, pixels, tokens) of all rows, zero where a row is not guided."""
        wanted = (pixels, tokens, device)
        if wanted not in self.maps:
            f = self.factor(pixels)
            grid = (self.latent_hw[0] // f, self.latent_hw[1] // f)
            if math.prod(grid) != pixels:
                raise ValueError(
                    f"latents of {self.latent_hw[0]} x {self.latent_hw[1]} are {pixels} pixels at factor {f}, not {grid[0]} x {grid[1]}; "
                    "give sides that every factor divides"
                )
            scale = self.options.inside, self.options.outside
            per_row = [torch.zeros(pixels, tokens) if row is None else token_weights(*row, tokens, grid, *scale) for row in self.rows]
            self.maps[wanted] = torch.stack(per_row).to(device)
        return self.maps[wanted]


class _GuidedAttention:
    """A diffusers attention processor: `own`, the layer's AttnProcessor2_0, but for cross-attention that is edited now."""

    def __init__(self, own: Callable, edit: _Edit) -> None:
        self.own, self.edit = own, edit

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        """(B, N, width) of pixels (B, N, width) and text states (B, S, D); `attention_mask` is added to the scores."""
        edited = self.edit.sigma is not None and self.edit.factor(hidden_states.shape[1]) in self.edit.levels
        if encoder_hidden_states is None or not edited:
            return self.own(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        (count, pixels, _), tokens = hidden_states.shape, encoder_hidden_states.shape[1]
        if count != len(self.edit.rows):
            raise ValueError(f"a batch of {count} rows with layouts for {len(self.edit.rows)}; give guided_attention one entry a row")
        projected = attn.to_q(hidden_states), attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        query, key, value = (part.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for part in projected)
        masks = None
        if attention_mask is not None:
            masks = attn.prepare_attention_mask(attention_mask, tokens, count).view(count, attn.heads, -1, tokens)[:, :1].float()
        std = score_std(query, key, None if masks is None else (masks > MASKED_BELOW).any(2)[:, 0])
        weights = self.edit.weights(pixels, tokens, query.device)
        bias = attention_bias(weights, std, self.edit.sigma, self.edit.options.weight, query.shape[-1], query.dtype)[:, None]
        if masks is not None:
            bias = (bias + masks).clamp(min=torch.finfo(query.dtype).min)
        mixed = scaled_dot_product_attention(query, key, value, attn_mask=bias.to(query.dtype))
        mixed = mixed.transpose(1, 2).flatten(2).to(query.dtype)
        return attn.to_out[1](attn.to_out[0](mixed))


@contextmanager
def guided_attention(
    unet: "UNet2DConditionModel", options: LayoutGuidance, rows: Sequence[Placement | None], latent_hw: tuple[int, int]
) -> Iterator[Callable[[float | None], None]]:
    """Within it the UNet's cross-attention is edited; yields `at(sigma)`, to be called before each call of the UNet.

    `rows` has one entry a row of the UNet's batch: None for an unconditional or unguided row, else boxes and spans as
    `token_weights` takes them. `latent_hw` is the latents' size. `at(None)`, the state at the beginning, and weight 0 leave every
    bit as without. Afterwards, also after an exception, the UNet has its own processors again; adapters work within.
    ValueError for levels the UNet does not have, wrong boxes or spans, and processors other than diffusers' AttnProcessor2_0.
    """
    from diffusers.models.attention_processor import AttnProcessor2_0

    levels, guided = chosen_levels(options, unet), [row for row in rows if row is not None]
    for row in guided:
        check_placement(*row)
    # Not even a bias of zeros where nothing is edited: with one, attention may run in another kernel.
    edit = _Edit(options=options, levels=levels if options.weight and guided else (), rows=list(rows), latent_hw=tuple(latent_hw))
    own = dict(unet.attn_processors)
    other = sorted({type(processor).__name__ for processor in own.values() if type(processor) is not AttnProcessor2_0})
    if other:
        raise ValueError(f"the UNet attends by {', '.join(other)}, and layout guidance edits AttnProcessor2_0 alone; set that one first")

    def at(sigma: float | None) -> None:
        if sigma is not None and not 0 <= sigma < math.inf:
            raise ValueError(f"noise level {sigma}: allowed are None (no edit) and finite levels from 0")
        edit.sigma = None if sigma is None else float(sigma)

    unet.set_attn_processor({name: _GuidedAttention(processor, edit) for name, processor in own.items()})
    try:
        yield at
    finally:
        unet.set_attn_processor(dict(own))
