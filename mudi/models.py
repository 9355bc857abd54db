"""The only file that finds weights: a name becomes loaded models, frozen, in evaluation mode, on the device asked for.

A name is "miniature", a folder, a hub id with a revision ("stabilityai/stable-diffusion-xl-base-1.0@REVISION") or, for the
backbone, "random-sdxl", "random-sd15" or "random-sd21" (full size, random weights; ":SEED" may follow) or "miniature-sd", which
has one text encoder as Stable Diffusion 1.5 has. The miniature is a checkpoint and never a branch: its name stands for a folder.
Folders: a backbone in the diffusers layout; a detector, DINOv2 or CLIP as transformers saves them with their processors;
DreamSim as `dreamsim_trunks.save_dreamsim`, SAM as `sam_folder.save_segmenter` and ImageReward as `blip_reward.save_reward`
write them. Only safetensors are read.
"""

from functools import partial
from operator import call
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from mudi.backbone import Backbone
from mudi.checkpoints.blip_reward import Reward, read_reward
from mudi.checkpoints.clip_text import Clip
from mudi.checkpoints.weights_folder import check_safetensors, read_config
from mudi.detect import Detector
from mudi.embed import Embedder, bit_pixels, mean_of_tokens, resized
from mudi.model_facts import RANDOM, find_folder

# The libraries of the models are imported where a model is built: together they take 13 s of CPU time, of
# which a detector needs 5 and a driver, which builds none, nothing.
if TYPE_CHECKING:
    from segment_anything import SamPredictor
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer, PreTrainedModel, ProcessorMixin


PIPELINES = ("StableDiffusionXLPipeline", "StableDiffusionPipeline")


def load(name: str, device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32) -> Backbone:
    """The backbone of that name."""
    device = torch.device(device)
    matched = RANDOM.fullmatch(name)
    if matched:
        from mudi.checkpoints.random_weights import random_parts

        parts = random_parts(matched["family"], int(matched["seed"] or 0), device, dtype, _vae_dtype(True, dtype))
    else:
        parts = _stored_parts(find_folder(name), dtype)
    for encoder, tokenizer in (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")):
        _pool_at_end_mark(parts[encoder], parts[tokenizer])
    for key in ("text_encoder", "text_encoder_2", "vae", "unet"):
        parts[key] = None if parts[key] is None else _ready(parts[key], device, name)
    return Backbone(name=name, **parts, device=device, dtype=dtype)


def load_detector(name: str, device: str | torch.device = "cpu") -> Detector:
    """OWLv2 in float32; "miniature", a folder or a hub id."""
    from transformers import Owlv2ForObjectDetection, Owlv2Processor

    folder = find_folder(name, "detector")
    model = _pretrained(Owlv2ForObjectDetection, folder, torch.float32)
    # Named, so that no pixel depends on what else is installed; on noise the other backend's pixels differ by 2e-4.
    processor = Owlv2Processor.from_pretrained(folder, backend="torchvision", local_files_only=True)
    return Detector(name=name, model=_ready(model, device, name), processor=processor)


def load_embedder(kind: str, name: str, device: str | torch.device = "cpu") -> Embedder:
    """An embedder in float32, `kind` a key of EMBEDDERS; "miniature", a folder or a hub id."""
    if kind not in EMBEDDERS:
        raise ValueError(f"embedder {kind!r} is unknown; use one of {', '.join(EMBEDDERS)}")
    return EMBEDDERS[kind](name, find_folder(name, kind), device)


def load_segmenter(name: str, device: str | torch.device = "cpu") -> "SamPredictor":
    """Segment-anything in float32; "miniature", a folder or a hub id."""
    from segment_anything import SamPredictor

    from mudi.checkpoints.sam_folder import read_sam

    return SamPredictor(_ready(read_sam(find_folder(name, "sam")), device, name))


def load_clip(name: str, device: str | torch.device = "cpu") -> Clip:
    """CLIP in float32; "miniature", a folder as transformers saves a CLIPModel with its processor, or a hub id."""
    from transformers import AutoImageProcessor, CLIPModel, CLIPTokenizer

    folder = find_folder(name, "clip")
    model = _ready(_pretrained(CLIPModel, folder, torch.float32), device, name)
    # Pillow resizes as the processor did when the metric was published.
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    return Clip(name=name, model=model, tokenizer=CLIPTokenizer.from_pretrained(folder, local_files_only=True), processor=processor)


def load_reward(name: str, device: str | torch.device = "cpu") -> Reward:
    """ImageReward in float32; "miniature", a folder of `blip_reward.save_reward` or a hub id of such a folder."""
    from transformers import AutoTokenizer

    folder = find_folder(name, "image_reward")
    model = _ready(read_reward(folder), device, name)
    return Reward(name=name, model=model, tokenizer=AutoTokenizer.from_pretrained(folder, local_files_only=True))


def load_vision_language(name: str, device: str | torch.device = "cpu") -> "tuple[PreTrainedModel, ProcessorMixin]":
    """A model that talks about pictures, in the number format it is stored in, with its processor; a folder or a hub id.

    Raises ValueError for another kind of model and for one that takes no conversation, such as Florence-2.
    """
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    example = "give an instruction-tuned vision-language model, such as one of Qwen3-VL"
    if name == "miniature":
        raise ValueError(f"the miniature has no model that talks about pictures; {example}, or use templates")
    folder = find_folder(name)
    kind = read_config(folder).get("model_type")
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ValueError(f"model {name!r} is of type {str(kind)[:40]!r}, which does not talk about pictures; {example}")
    # Code that a checkpoint brings along is never run.
    processor = AutoProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if not getattr(processor, "chat_template", None):
        raise ValueError(f"model {name!r} has no chat template, so it cannot be asked anything; {example}")
    return _ready(_pretrained(AutoModelForImageTextToText, folder, "auto"), device, name), processor


def _dreamsim(name: str, folder: Path, device: str | torch.device) -> Embedder:
    from mudi.checkpoints.dreamsim_trunks import read_dreamsim

    model = _ready(read_dreamsim(folder), device, name)
    preprocess = partial(resized, side=model.config.image_size)
    return Embedder(name=name, kind="dreamsim", model=model, preprocess=preprocess, features=call, width=model.width)


def _dinov2(name: str, folder: Path, device: str | torch.device) -> Embedder:
    from transformers import AutoImageProcessor, Dinov2Model

    model = _ready(_pretrained(Dinov2Model, folder, torch.float32), device, name)
    # Pillow resizes as the processor did when the metric was published.
    processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    preprocess = partial(bit_pixels, processor)
    return Embedder(
        name=name, kind="dinov2", model=model, preprocess=preprocess, features=mean_of_tokens, width=model.config.hidden_size
    )  # fmt: skip


EMBEDDERS = {"dreamsim": _dreamsim, "dinov2": _dinov2}


def _stored_parts(folder: Path, dtype: torch.dtype) -> dict:
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(f"{folder} has no model_index.json; a backbone is a folder as diffusers saves a pipeline of {PIPELINES}")
    pipeline = read_config(folder, "model_index.json").get("_class_name")
    if pipeline not in PIPELINES:
        raise ValueError(f"{index}: is a {str(pipeline)[:40]!r}, which cannot be adapted here; use one of {', '.join(PIPELINES)}")
    two = pipeline == "StableDiffusionXLPipeline"
    check_safetensors(folder / "vae")
    force_upcast = AutoencoderKL.load_config(folder / "vae").get("force_upcast", True)
    return {
        "tokenizer": CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True),
        "tokenizer_2": CLIPTokenizer.from_pretrained(folder / "tokenizer_2", local_files_only=True) if two else None,
        "text_encoder": _pretrained(CLIPTextModel, folder / "text_encoder", dtype),
        "text_encoder_2": _pretrained(CLIPTextModelWithProjection, folder / "text_encoder_2", dtype) if two else None,
        "vae": _pretrained(AutoencoderKL, folder / "vae", _vae_dtype(force_upcast, dtype)),
        "unet": _pretrained(UNet2DConditionModel, folder / "unet", dtype),
        "scheduler": EulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
    }


def _pool_at_end_mark(encoder: "CLIPTextModel | CLIPTextModelWithProjection | None", tokenizer: "CLIPTokenizer | None") -> None:
    """Make an encoder pool at the tokenizer's end mark.

    Published SDXL's settings hold 2 for that mark, of which transformers makes "the highest id": a word added behind the
    vocabulary would then give the pooled text in its place. For prompts without such words nothing changes.
    """
    for module in () if encoder is None else encoder.modules():
        if hasattr(module, "eos_token_id"):
            module.eos_token_id = tokenizer.eos_token_id


def _vae_dtype(force_upcast: bool, dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if force_upcast and dtype == torch.float16 else dtype


def _pretrained(model_class: type, folder: Path, dtype: torch.dtype | Literal["auto"]) -> nn.Module:
    """A diffusers or transformers model with every weight from the folder. Both libraries only warn of missing
    weights and draw them at random; here that is an error."""
    check_safetensors(folder)
    key = "torch_dtype" if model_class.__module__.startswith("diffusers.") else "dtype"
    model, info = model_class.from_pretrained(
        folder, use_safetensors=True, local_files_only=True, output_loading_info=True, **{key: dtype}
    )  # fmt: skip
    missing = sorted(info["missing_keys"])
    if missing:
        raise ValueError(f"{folder}: {len(missing)} weights of {model_class.__name__} are missing, first {', '.join(missing[:5])}")
    return model


def _ready(model: nn.Module, device: str | torch.device, name: str) -> nn.Module:
    """The model on the device, frozen, in evaluation mode; ValueError if a weight is not finite."""
    for key, parameter in model.named_parameters():
        if not torch.isfinite(parameter).all():
            raise ValueError(f"model {name!r}: weight {key} of {type(model).__name__} is not finite; fetch or train it again")
    return model.to(device).eval().requires_grad_(False)
