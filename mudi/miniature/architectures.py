"""The tiny models, of the same classes as SDXL, OWLv2, DINOv2, DreamSim's trunk, SAM, CLIP and ImageReward, with random weights."""

from dataclasses import replace

import torch
from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
from segment_anything.modeling import Sam
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    Owlv2Config,
    Owlv2ForObjectDetection,
)  # fmt: skip

from mudi.checkpoints.blip_reward import BlipReward, RewardConfig
from mudi.checkpoints.dreamsim_trunks import DreamSim, DreamSimConfig, TrunkConfig
from mudi.checkpoints.full_sizes import SDXL
from mudi.checkpoints.sam_folder import SamConfig, build_sam
from mudi.miniature.captions import TOKENS
from mudi.miniature.world import SIZE

DETECTOR_TOKENS = 16
LATENT_CHANNELS = 8
TEXT_WIDTHS = (48, 64)


def vae() -> AutoencoderKL:
    """f = 4, eight latent channels, no mid attention: 0.66 M parameters."""
    return AutoencoderKL(
        block_out_channels=(16, 32, 64), latent_channels=LATENT_CHANNELS, layers_per_block=1, down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3, norm_num_groups=8, sample_size=SIZE, mid_block_add_attention=False, scaling_factor=1.0,
        force_upcast=False,
    )  # fmt: skip


def unet() -> UNet2DConditionModel:
    """SDXL's plan at two levels: plain blocks at 12 x 12, cross-attention at 6 x 6, text_time embedding."""
    return _unet(
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D"], up_block_types=["CrossAttnUpBlock2D", "UpBlock2D"],
        cross_attention_dim=sum(TEXT_WIDTHS), addition_embed_type="text_time", addition_time_embed_dim=16,
        projection_class_embeddings_input_dim=TEXT_WIDTHS[1] + 6 * 16,
    )  # fmt: skip


def one_encoder_unet() -> UNet2DConditionModel:
    """Stable Diffusion 1.5's and 2.1's plan at two levels: cross-attention at 12 x 12 and at 6 x 6, no added embedding."""
    return _unet(
        down_block_types=["CrossAttnDownBlock2D"] * 2, up_block_types=["CrossAttnUpBlock2D"] * 2, cross_attention_dim=TEXT_WIDTHS[1]
    )


def _unet(**plan) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=SIZE // 4, in_channels=LATENT_CHANNELS, out_channels=LATENT_CHANNELS, block_out_channels=(64, 128), layers_per_block=1,
        transformer_layers_per_block=[1, 1], attention_head_dim=[2, 4], use_linear_projection=True, norm_num_groups=16, **plan,
    )  # fmt: skip


def text_encoders(tokenizer: CLIPTokenizer) -> tuple[CLIPTextModel, CLIPTextModelWithProjection]:
    """Three layers each; as in SDXL the condition is the penultimate states and the pooled second output."""
    first, second = (CLIPTextConfig(**_text(tokenizer, width), hidden_act="quick_gelu") for width in TEXT_WIDTHS)
    second.projection_dim = TEXT_WIDTHS[1]
    return CLIPTextModel(first), CLIPTextModelWithProjection(second)


def one_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """Three layers, of which the condition is the last one's normalised states, as in Stable Diffusion 1.5 and 2.1."""
    return CLIPTextModel(CLIPTextConfig(**_text(tokenizer, TEXT_WIDTHS[1]), hidden_act="quick_gelu"))


def _text(tokenizer: CLIPTokenizer, width: int, inner: int = 3, layers: int = 3, context: int = TOKENS) -> dict[str, int]:
    """The settings of a text tower of four heads whose fully connected layers are `inner` times as wide."""
    marks = {f"{mark}_token_id": getattr(tokenizer, f"{mark}_token_id") for mark in ("bos", "eos", "pad")}
    return {
        "vocab_size": len(tokenizer), "hidden_size": width, "intermediate_size": inner * width, "num_hidden_layers": layers,
        "num_attention_heads": 4, "max_position_embeddings": context, **marks,
    }  # fmt: skip


def scheduler() -> EulerDiscreteScheduler:
    """SDXL's scheduler configuration."""
    return EulerDiscreteScheduler(**SDXL["scheduler"])


def positions(side: int, width: int) -> torch.Tensor:
    """Sines and cosines of column and row, (side * side, width), in 0.35 of unit scale.

    From random positions a small transformer needs many hundred steps to find out which patches are
    neighbours; from these it learns colours about twice as fast. Wavelengths span 6 to 60 patches.
    """
    frequencies = 10.0 ** -(torch.arange(width // 4) / (width // 4))
    y, x = torch.meshgrid(torch.arange(side).float(), torch.arange(side).float(), indexing="ij")
    waves = [wave(t.flatten()[:, None] * frequencies) for t in (x, y) for wave in (torch.sin, torch.cos)]
    return 0.35 * torch.cat(waves, 1)


def start_linear(*modules: nn.Module) -> None:
    """Start every linear layer at Xavier's scale. The usual standard deviation of 0.02 suits a width of 768; at 96
    it lets hardly any signal through a layer."""
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)


@torch.no_grad()
def start_positions(patches: nn.Conv2d, table: torch.Tensor) -> None:
    """Start the learned position `table` (1 + side * side, width), class token first, from `positions`, and
    the patch embedding at the same scale."""
    count, width = table.shape
    table[1:] = positions(round((count - 1) ** 0.5), width)
    nn.init.normal_(patches.weight, std=0.35 * patches.weight[0].numel() ** -0.5)


def detector(tokenizer: CLIPTokenizer) -> Owlv2ForObjectDetection:
    """OWLv2 on 48 px with 6-px patches: 64 candidate boxes."""
    text = _text(tokenizer, 48, inner=2, layers=2, context=DETECTOR_TOKENS)
    vision = {
        "hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": SIZE,
        "patch_size": 6,
    }  # fmt: skip
    model = Owlv2ForObjectDetection(Owlv2Config(text_config=text, vision_config=vision, projection_dim=48))
    # transformers starts the heads' linear layers at std 1.0, which saturates the sigmoids for hundreds of steps.
    start_linear(model.box_head, model.class_head, model.objectness_head)
    # Logits are (cosine + shift) * scale: a scale of 10 lets the cosines of four similar texts matter from the start,
    # and the shift makes every patch begin at a probability of 2 %.
    nn.init.constant_(model.class_head.logit_scale.bias, 9.0)
    nn.init.constant_(model.class_head.logit_shift.bias, -0.4)
    nn.init.constant_(model.objectness_head.dense2.bias, -4.0)
    embeddings = model.owlv2.vision_model.embeddings
    start_positions(embeddings.patch_embedding, embeddings.position_embedding.weight)
    return model


def dinov2() -> Dinov2Model:
    """DINOv2 on 48-px crops with 6-px patches, width 96, four layers."""
    model = Dinov2Model(
        Dinov2Config(image_size=SIZE, patch_size=6, hidden_size=96, num_hidden_layers=4, num_attention_heads=4, mlp_ratio=3)
    )
    start_linear(model)
    start_positions(model.embeddings.patch_embeddings.projection, model.embeddings.position_embeddings[0])
    return model


def dreamsim() -> DreamSim:
    """DreamSim of one DINO trunk on 48-px crops with 8-px patches, width 96, four layers."""
    trunk = TrunkConfig(name="miniature", patch_size=8, width=96, depth=4, heads=4, mlp_ratio=3.0)
    model = DreamSim(DreamSimConfig(image_size=SIZE, trunks=(trunk,)))
    vit = model.trunks[0].vit
    start_linear(vit)
    start_positions(vit.patch_embed.proj, vit.pos_embed[0])
    return model


def sam() -> Sam:
    """segment-anything on 64 px with 4-px patches, width 48, two layers."""
    sizes = SamConfig(
        image_size=64, patch_size=4, encoder_width=48, encoder_depth=2, encoder_heads=4, encoder_mlp_ratio=3, window_size=0,
        global_blocks=(), prompt_width=32, mask_channels=8, decoder_depth=2, decoder_heads=4, decoder_mlp_width=96, iou_depth=2,
        iou_width=32,
    )  # fmt: skip
    return build_sam(sizes)


def clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """CLIP on 48 px with 8-px patches, widths 80 and 64, four and three layers: 0.5 M parameters."""
    vision = {
        "hidden_size": 80, "intermediate_size": 240, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": SIZE,
        "patch_size": 8,
    }  # fmt: skip
    model = CLIPModel(CLIPConfig(text_config=_text(tokenizer, 64), vision_config=vision, projection_dim=64))
    start_linear(model.vision_model, model.text_model)
    embeddings = model.vision_model.embeddings
    start_positions(embeddings.patch_embedding, embeddings.position_embedding.weight)
    return model


REWARD = RewardConfig(
    image_size=SIZE, patch_size=8, vision_width=96, vision_layers=4, vision_heads=4, vision_mlp=288, vocabulary=0,
    positions=35, text_width=64, text_layers=3, text_heads=4, text_mlp=192, head=(64, 32, 16, 8), mean=0.0, std=1.0,
)  # fmt: skip


def reward(tokenizer: CLIPTokenizer) -> BlipReward:
    """ImageReward's network on 48 px with 8-px patches, its vision tower of the sizes of the trunk of `dreamsim`: 0.7 M parameters.

    The text tower is a BERT whose first token is CLIP's start mark and whose vocabulary is the miniature's: to the
    network ids are just ids.
    """
    model = BlipReward(replace(REWARD, vocabulary=len(tokenizer)))
    start_linear(model)
    embeddings = model.vision.embeddings
    start_positions(embeddings.patch_embedding, embeddings.position_embedding[0])
    nn.init.normal_(embeddings.class_embedding, std=0.35)
    return model
