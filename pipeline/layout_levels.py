"""Whether the backbone has the attention that guidance by layout is told to edit, asked before anything is loaded."""

from collections.abc import Mapping
from types import SimpleNamespace

from mudi.adapter_size import known_architecture
from mudi.attention.layout_guidance import chosen_levels
from mudi.options import Sampling
from pipeline.settings.benchmark_config import BenchmarkConfig
from pipeline.settings.config import RunConfig

# What diffusers takes where a UNet's settings do not name its middle.
MIDDLE = {"mid_block_type": "UNetMidBlock2DCrossAttn"}


def check_levels(config: RunConfig | BenchmarkConfig, samplings: Mapping[str, Sampling]) -> None:
    """Raise ValueError for the first of `samplings`, by its place in the file, whose levels the backbone does not have.

    A backbone that is not here to be looked at is left to the workers.
    """
    architecture = known_architecture(config.models.backbone)
    if architecture.assumed:
        return
    unet = SimpleNamespace(config=SimpleNamespace(**{**MIDDLE, **architecture.unet}))
    for place, sampling in samplings.items():
        if sampling.layout_guidance is not None:
            try:
                chosen_levels(sampling.layout_guidance, unet)
            except ValueError as error:
                raise ValueError(f"{place}.layout_guidance.{error}") from None
