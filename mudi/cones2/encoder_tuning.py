"""Text encoders made trainable for a while, by a LoRA or whole, and afterwards what they were, bit for bit."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from mudi.backbone import Backbone

# By suffix: transformers prefixes the names of one of SDXL's encoders and not of the other.
LAYERS = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")


@contextmanager
def lora_on_encoders(backbone: Backbone, rank: int, seed: int) -> Iterator[list[nn.Parameter]]:
    """A fresh LoRA, A gaussian from `seed` and B zero, alpha equal to `rank`, on the attention projections and fully
    connected layers of every text encoder; its matrices.

    Inside, the encoders compute in float32 whatever the backbone's number format, for the smallest of updates to count
    and for the states of two encodings to be subtracted.
    """
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=rank, init_lora_weights="gaussian", target_modules=list(LAYERS), lora_dropout=0.0)
    encoders = [encoder.float() for _, encoder in backbone.readers.values()]
    try:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for encoder in encoders:
                inject_adapter_in_model(config, encoder)
        yield [p for encoder in encoders for name, p in encoder.named_parameters() if "lora_" in name]
    finally:
        for encoder in encoders:
            _take_off(encoder)
            # Numbers that came from a narrower format go back to it exactly.
            encoder.to(backbone.dtype)


@contextmanager
def whole_encoders(backbone: Backbone) -> Iterator[list[nn.Parameter]]:
    """Every weight of every text encoder, the token tables included, trainable and in float32; a copy is put back at the end."""
    encoders = [encoder for _, encoder in backbone.readers.values()]
    originals = [{name: p.detach().cpu().clone() for name, p in encoder.named_parameters()} for encoder in encoders]
    try:
        for encoder in encoders:
            encoder.float().requires_grad_(True)
        yield [p for encoder in encoders for p in encoder.parameters()]
    finally:
        for encoder, original in zip(encoders, originals, strict=True):
            encoder.to(backbone.dtype).requires_grad_(False)
            for name, parameter in encoder.named_parameters():
                parameter.grad = None
                parameter.data.copy_(original[name])


def _take_off(encoder: nn.Module) -> None:
    """Put every layer that carries a LoRA back in its place without it."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in list(encoder.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, BaseTunerLayer):
                setattr(module, name, child.base_layer)
    # peft leaves its settings on a model, and would take them for those of an adapter that is still there.
    if hasattr(encoder, "peft_config"):
        del encoder.peft_config
