"""Segment-anything from a folder and into one: its sizes, its weights.

A folder holds `config.json`, the sizes below, and `model.safetensors`. The published ViT-H checkpoint becomes one by
`save_segmenter(folder, segment_anything.build_sam_vit_h("sam_vit_h_4b8939.pth"))`.
"""

from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch import nn

from mudi.checkpoints.weights_folder import CONFIG, read_config, read_weights, write_model


@dataclass(frozen=True, kw_only=True)
class SamConfig:
    """The sizes that make a Sam. image_size in pixels; window_size in patches, 0 for global attention everywhere,
    else `global_blocks` are the encoder blocks that attend globally; `decoder_*` and `iou_*` describe the mask decoder."""

    image_size: int
    patch_size: int
    encoder_width: int
    encoder_depth: int
    encoder_heads: int
    encoder_mlp_ratio: float
    window_size: int
    global_blocks: tuple[int, ...]
    prompt_width: int
    mask_channels: int
    decoder_depth: int
    decoder_heads: int
    decoder_mlp_width: int
    iou_depth: int
    iou_width: int


def build_sam(config: SamConfig) -> Sam:
    """A Sam of these sizes with untrained weights."""
    grid = config.image_size // config.patch_size
    return Sam(
        image_encoder=ImageEncoderViT(
            img_size=config.image_size, patch_size=config.patch_size, embed_dim=config.encoder_width, depth=config.encoder_depth,
            num_heads=config.encoder_heads, mlp_ratio=config.encoder_mlp_ratio, out_chans=config.prompt_width, qkv_bias=True,
            use_rel_pos=True, window_size=config.window_size, global_attn_indexes=tuple(config.global_blocks),
            norm_layer=partial(nn.LayerNorm, eps=1e-6),
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=config.prompt_width, image_embedding_size=(grid, grid),
            input_image_size=(config.image_size, config.image_size), mask_in_chans=config.mask_channels,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3, transformer_dim=config.prompt_width,
            transformer=TwoWayTransformer(
                depth=config.decoder_depth, embedding_dim=config.prompt_width, num_heads=config.decoder_heads,
                mlp_dim=config.decoder_mlp_width,
            ),
            iou_head_depth=config.iou_depth, iou_head_hidden_dim=config.iou_width,
        ),
    )  # fmt: skip


def sizes_of(sam: Sam) -> SamConfig:
    """The sizes of a Sam, read off its modules."""
    encoder, prompt, decoder = sam.image_encoder, sam.prompt_encoder, sam.mask_decoder
    windows = [block.window_size for block in encoder.blocks]
    first = encoder.blocks[0]
    return SamConfig(
        image_size=encoder.img_size,
        patch_size=encoder.patch_embed.proj.kernel_size[0],
        encoder_width=encoder.patch_embed.proj.out_channels,
        encoder_depth=len(encoder.blocks),
        encoder_heads=first.attn.num_heads,
        encoder_mlp_ratio=first.mlp.lin1.out_features / first.mlp.lin1.in_features,
        window_size=max(windows),
        global_blocks=tuple(i for i, window in enumerate(windows) if max(windows) > 0 and window == 0),
        prompt_width=prompt.embed_dim,
        mask_channels=prompt.mask_downscaling[-1].in_channels,
        decoder_depth=decoder.transformer.depth,
        decoder_heads=decoder.transformer.num_heads,
        decoder_mlp_width=decoder.transformer.mlp_dim,
        iou_depth=decoder.iou_prediction_head.num_layers,
        iou_width=decoder.iou_prediction_head.layers[0].out_features,
    )


def save_segmenter(folder: Path, sam: Sam, dtype: torch.dtype | None = None) -> None:
    """Writes config.json and model.safetensors, the weights in `dtype` if one is given."""
    write_model(folder, asdict(sizes_of(sam)), sam, dtype)


def read_sam(folder: Path) -> Sam:
    """The float32 Sam of a folder that `save_segmenter` wrote."""
    try:
        sam = build_sam(SamConfig(**read_config(folder)))
    except TypeError as error:
        raise ValueError(f"{folder / CONFIG} does not describe a Sam ({error}); write the folder with save_segmenter") from error
    return read_weights(folder, sam)
