"""The levels of cross-attention that a UNet has, by its settings alone, and those that guidance by layout edits."""

from typing import TYPE_CHECKING

from mudi.options import LayoutGuidance

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


def cross_levels(unet: "UNet2DConditionModel") -> tuple[int, ...]:
    """The downsampling factors, ascending, at which a diffusers UNet has cross-attention: (2, 4) for SDXL, (1, 2, 4, 8) for
    Stable Diffusion 1.5 and 2.1. From the names of its blocks; the first down block, and the last up block, works at factor 1."""
    down, up = unet.config.down_block_types, unet.config.up_block_types
    deepest = len(down) - 1
    factors = {2**i for i, name in enumerate(down) if "CrossAttn" in name}
    factors |= {2 ** (deepest - i) for i, name in enumerate(up) if "CrossAttn" in name}
    if "CrossAttn" in (unet.config.mid_block_type or ""):
        factors.add(2**deepest)
    return tuple(sorted(factors))


def chosen_levels(options: LayoutGuidance, unet: "UNet2DConditionModel") -> tuple[int, ...]:
    """The factors that `options.levels` edits, ascending. ValueError if the UNet has none of them, or not all that are named."""
    present = cross_levels(unet)
    listed = ", ".join(map(str, present)) or "none"
    if options.levels == "v1":
        if len(present) < 2:
            raise ValueError(f"levels = 'v1' leaves nothing: this UNet has cross-attention at factor {listed} alone; use levels = 'all'")
        return present[:-1]
    chosen = present if options.levels == "all" else tuple(sorted(options.levels))
    if not chosen or set(chosen) - set(present):
        raise ValueError(f"levels = {options.levels!r}: this UNet has cross-attention at factors {listed}; choose among them")
    return chosen
