"""A loaded diffusion model with all that can be put on it: a value that every other file takes."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


@dataclass(frozen=True, kw_only=True)
class Residual:
    """`values`, float32 (K, D), are added to the states of the K tokens of `words`, the class noun that names subject `key`.

    D is the width of the condition: both encoders' states side by side for SDXL.
    """

    key: str
    words: str
    values: "torch.Tensor"


@dataclass(frozen=True, kw_only=True)
class Concept:
    """A subject with an adapter of its own, by the adapter's name on the UNet. `phrase` is how prompts name it ("olis corgi")
    and `class_noun` how without its identifier ("corgi"); a `style` is what no box can hold."""

    key: str
    adapter: str
    phrase: str
    class_noun: str
    style: bool = False


@dataclass(frozen=True, kw_only=True)
class LowPart:
    """The LoRA, by its name on the UNet, that draws at timesteps under `below` in place of the active one."""

    adapter: str
    below: int


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """SDXL, Stable Diffusion 1.5 or 2.1, or a model of one of their plans. `dtype` is that of all parts but the autoencoder,
    which stays float32 where float16 would overflow it (its `force_upcast`). SDXL has two text encoders and tells its UNet a
    pooled text and sizes besides; the others have one, and None for the second."""

    name: str
    tokenizer: "CLIPTokenizer"
    tokenizer_2: "CLIPTokenizer | None"
    text_encoder: "CLIPTextModel"
    text_encoder_2: "CLIPTextModelWithProjection | None"
    vae: "AutoencoderKL"
    unet: "UNet2DConditionModel"
    scheduler: "EulerDiscreteScheduler"
    device: "torch.device"
    dtype: "torch.dtype"
    residuals: list[Residual] = field(default_factory=list, compare=False)
    """What is added to the states of words, put there and taken away by `mudi.adapters` as LoRAs and token rows are."""
    concepts: list[Concept] = field(default_factory=list, compare=False)
    """Subjects with an adapter of their own, each drawn on a path of its own (`mudi.attention.injection`); likewise."""
    low_parts: list[LowPart] = field(default_factory=list, compare=False)
    """The second part of an adapter of two parts, at most one (`mudi.adapters.in_parts`); likewise."""

    @property
    def readers(self) -> "dict[str, tuple[CLIPTokenizer, CLIPTextModel | CLIPTextModelWithProjection]]":
        """Each text encoder with its tokenizer: clip_l and clip_g of SDXL, as adapter files call them, or the only one, clip."""
        if self.text_encoder_2 is None:
            return {"clip": (self.tokenizer, self.text_encoder)}
        return {"clip_l": (self.tokenizer, self.text_encoder), "clip_g": (self.tokenizer_2, self.text_encoder_2)}

    @property
    def latent_factor(self) -> int:
        """Pixels per latent along a side: 8 for SDXL."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    @property
    def resolution(self) -> int:
        """The side in pixels that the model was made for: 1024 for SDXL."""
        return self.unet.config.sample_size * self.latent_factor
