"""LoRA adapters on the UNet: attach, switch, save in diffusers' layout with a manifest, load verified."""

import hashlib
import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from mudi.records import Adapter

# peft is imported where it is used: with transformers behind it, 10 s of CPU time that a driver does not need.
WEIGHTS, MANIFEST = "pytorch_lora_weights.safetensors", "manifest.json"
TRAINED, REFERENCE = "default", "reference"


@dataclass(frozen=True, kw_only=True)
class LoraSettings:
    """Where the low-rank matrices sit and how wide they are; MuDI's released defaults."""

    rank: int = 32
    alpha: int = 32
    targets: tuple[str, ...] = ("to_q", "to_k", "to_v", "to_out.0")


def attach(unet: nn.Module, settings: LoraSettings, seed: int, name: str = TRAINED) -> None:
    """Give `unet` the adapter `name`, replacing one of that name: A gaussian from `seed`, B zero, float32.

    The matrices stay in float32 whatever the UNet's dtype, so that small updates are not lost.
    """
    from peft import LoraConfig

    if name in getattr(unet, "peft_config", {}):
        unet.delete_adapters(name)
    config = LoraConfig(
        r=settings.rank, lora_alpha=settings.alpha, init_lora_weights="gaussian", target_modules=list(settings.targets), lora_dropout=0.0
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet.add_adapter(config, adapter_name=name)
    for key, parameter in unet.named_parameters():
        if f".{name}." in key and "lora_" in key:
            parameter.data = parameter.data.float()


def activate(unet: nn.Module, name: str | None) -> None:
    """Run with the adapter `name` alone, or with none (the base model); also decides which one is trainable.

    peft's `set_adapter` makes the active adapter's matrices require gradients and the others not. The
    base model's own weights never do.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in unet.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(name is not None)
            if name is not None:
                module.set_adapter(name)


def parameters(unet: nn.Module, name: str = TRAINED) -> list[nn.Parameter]:
    """The matrices of one adapter, in a fixed order."""
    return [p for key, p in unet.named_parameters() if f".{name}." in key and "lora_" in key]


def detach_all(unet: nn.Module) -> None:
    """Take every adapter off, leaving the base model as it was loaded."""
    if getattr(unet, "peft_config", None):
        unet.unload_lora()


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save(
    unet: nn.Module, folder: Path, settings: LoraSettings, *, method: str, combination: str, round: int, details: dict, name: str = TRAINED
) -> Adapter:
    """Write one adapter to `folder` and return it; the folder appears complete or not at all.

    The weights file is what `StableDiffusionXLPipeline.load_lora_weights` reads; the manifest beside it
    says what it is, with the sha256 of the weights and `details` (hyperparameters, seed, base model).
    """
    from peft import get_peft_model_state_dict

    staging = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    state = get_peft_model_state_dict(unet, adapter_name=name)
    tensors = {f"unet.{key}": value.detach().float().cpu().contiguous() for key, value in sorted(state.items())}
    if broken := [key for key, value in tensors.items() if not value.isfinite().all()]:
        raise ValueError(f"adapter for {combination}: {len(broken)} of {len(tensors)} matrices are not finite; lower the learning rate")
    lora = {"r": settings.rank, "lora_alpha": settings.alpha, "target_modules": list(settings.targets)}
    # A single key: safetensors writes several in an order of its own, and equal adapters must have equal bytes.
    metadata = {"lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in lora.items()}, sort_keys=True)}
    save_file(tensors, staging / WEIGHTS, metadata=metadata)
    sha256 = file_sha256(staging / WEIGHTS)
    manifest = {"method": method, "combination": combination, "round": round, "sha256": sha256, "lora": asdict(settings), **details}
    (staging / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)
    return Adapter(method=method, combination=combination, round=round, path=folder, sha256=sha256)


def _manifest(folder: Path) -> dict:
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{path}: no such manifest; expected a folder written by this program with {WEIGHTS} and {MANIFEST}")
    return json.loads(path.read_text())


def find(folder: Path) -> Adapter | None:
    """The adapter stored in `folder`, or None if there is none or its weights do not match the manifest."""
    if not (folder / MANIFEST).is_file() or not (folder / WEIGHTS).is_file():
        return None
    manifest = _manifest(folder)
    if file_sha256(folder / WEIGHTS) != manifest["sha256"]:
        return None
    return Adapter(
        method=manifest["method"], combination=manifest["combination"], round=manifest["round"], path=folder, sha256=manifest["sha256"]
    )


def load(unet: nn.Module, adapter: Adapter, name: str = TRAINED) -> LoraSettings:
    """Put a stored adapter on `unet` under `name`, active; its settings come back.

    Raises ValueError if the weights are cut, altered, not finite, or do not fit this UNet exactly.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    weights = adapter.path / WEIGHTS
    lora = _manifest(adapter.path)["lora"]
    settings = LoraSettings(rank=lora["rank"], alpha=lora["alpha"], targets=tuple(lora["targets"]))
    if file_sha256(weights) != adapter.sha256:
        raise ValueError(f"{weights}: contents do not match sha256 {adapter.sha256[:12]}...; restore the file or fit again")
    try:
        tensors = load_file(weights)
    except SafetensorError as error:
        raise ValueError(f"{weights}: not a complete safetensors file ({error}); restore the file or fit again") from error
    attach(unet, settings, seed=0, name=name)
    present = set(get_peft_model_state_dict(unet, adapter_name=name))
    state = {key.removeprefix("unet."): value for key, value in tensors.items()}
    if unmatched := sorted(present ^ set(state)):
        raise ValueError(
            f"{weights}: {len(unmatched)} matrices do not match this UNet, such as {unmatched[0]}; was it fitted on another model?"
        )
    if not all(value.isfinite().all() for value in state.values()):
        raise ValueError(f"{weights}: holds values that are not finite; fit again with a lower learning rate")
    set_peft_model_state_dict(unet, state, adapter_name=name)
    activate(unet, name)
    return settings
