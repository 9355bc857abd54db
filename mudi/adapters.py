"""Adapters: LoRAs on the UNet, token rows, residuals of words; attached, switched, saved with a manifest, loaded verified."""

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from mudi.adapter_folder import (
    CONCEPT,
    LOW_WEIGHTS,
    NOISE_FROM,
    RESIDUALS,
    ROWS,
    WEIGHTS,
    Origin,
    begin,
    contents_sha256,
    finish,
    read_manifest,
)
from mudi.backbone import Backbone, Concept, LowPart, Residual
from mudi.model_facts import weights_identity
from mudi.options import LoraSettings
from mudi.records import Adapter
from mudi.text import tokens
from mudi.text.residuals import read_residuals, stored_residuals

# peft is imported where it is used: with transformers behind it, 10 s of CPU time that a driver does not need.
TRAINED, REFERENCE, LOW = "default", "reference", "low_noise"


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


@contextmanager
def in_parts(backbone: Backbone, predicting: Callable) -> Iterator[Callable]:
    """Yields `predicting` (see `mudi.diffusion.Predicting`), of an adapter of two parts with the one that draws at the timestep.

    Afterwards the part that the rounds trained is active, as before.
    """
    if not backbone.low_parts:
        yield predicting
        return
    (low,) = backbone.low_parts

    def answer(backbone: Backbone, noisy: torch.Tensor, timestep: torch.Tensor, *told: object) -> torch.Tensor:
        activate(backbone.unet, low.adapter if int(timestep) < low.below else TRAINED)
        return predicting(backbone, noisy, timestep, *told)

    try:
        yield answer
    finally:
        activate(backbone.unet, TRAINED)


def parameters(unet: nn.Module, name: str = TRAINED) -> list[nn.Parameter]:
    """The matrices of one adapter, in a fixed order."""
    return [p for key, p in unet.named_parameters() if f".{name}." in key and "lora_" in key]


def detach_all(unet: nn.Module) -> None:
    """Take every adapter off, leaving the base model as it was loaded."""
    if getattr(unet, "peft_config", None):
        unet.unload_lora()


def save(
    backbone: Backbone, folder: Path, settings: LoraSettings | None, origin: Origin, *, identifiers: Sequence[str] = (),
    name: str = TRAINED, residuals: Sequence[Residual] = (), low: Path | None = None,
) -> Adapter:  # fmt: skip
    """Write what is attached to `folder` and return it; the folder appears complete or not at all, and survives a crash then.

    The LoRA file, absent where `settings` is None, is what `StableDiffusionXLPipeline.load_lora_weights`
    reads. Token rows, where any are attached, go beside it as "IDENTIFIER.clip_l" and "IDENTIFIER.clip_g",
    `identifiers` in the order they were attached in; so do `residuals` (`mudi.text.residuals`), and the LoRA file `low`, the
    second part of an adapter of two. The manifest tells its `origin`, with the sha256.
    """
    staging, combination = begin(folder), origin.combination
    if settings is not None:
        lora = {"r": settings.rank, "lora_alpha": settings.alpha, "target_modules": list(settings.targets)}
        # A single key: safetensors writes several in an order of its own, and equal adapters must have equal bytes.
        metadata = {"lora_adapter_metadata": json.dumps({f"unet.{k}": v for k, v in lora.items()}, sort_keys=True)}
        _save_finite(_lora_tensors(backbone.unet, name), staging / WEIGHTS, combination, metadata)
    if rows := tokens.read_rows(backbone, identifiers):
        flat = {f"{word}.{key}": row for word, of_word in sorted(rows.items()) for key, row in sorted(of_word.items())}
        _save_finite(flat, staging / ROWS, combination, {"format": "pt"})
    if residuals:
        _save_finite(stored_residuals(residuals), staging / RESIDUALS, combination, {"format": "pt"})
    if low is not None:
        shutil.copyfile(low, staging / LOW_WEIGHTS)
    return finish(staging, folder, origin, asdict(settings) if settings else None)


def base_facts(backbone: Backbone) -> dict[str, str]:
    """What a manifest says of the model that an adapter was fitted on: adapters that differ here are never merged."""
    precision = str(backbone.dtype).removeprefix("torch.")
    return {"backbone": backbone.name, "weights": weights_identity(backbone.name), "precision": precision}


def _lora_tensors(unet: nn.Module, name: str) -> dict[str, torch.Tensor]:
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(unet, adapter_name=name)
    return {f"unet.{key}": value.detach().float().cpu().contiguous() for key, value in sorted(state.items())}


def _save_finite(tensors: dict[str, torch.Tensor], path: Path, combination: str, metadata: dict[str, str]) -> None:
    if broken := [key for key, value in tensors.items() if not value.isfinite().all()]:
        raise ValueError(f"adapter for {combination}: {len(broken)} of {len(tensors)} matrices are not finite; lower the learning rate")
    save_file(tensors, path, metadata=metadata)


def put_on(backbone: Backbone, adapter: Adapter) -> None:
    """Make the backbone draw with a stored adapter and nothing else: its LoRA or both, its token rows, its residuals, its concepts.

    LoRAs of concepts are on the UNet and none of them is active. Raises ValueError if a file is cut, altered, not finite,
    or does not fit this model exactly.
    """
    detach(backbone)
    manifest = read_manifest(adapter.path)
    if (adapter.path / LOW_WEIGHTS).is_file():
        low = _verified(adapter, LOW_WEIGHTS)
        put_matrices(backbone.unet, _settings(manifest["lora"]), low, LOW, str(adapter.path / LOW_WEIGHTS))
        backbone.low_parts.append(LowPart(adapter=LOW, below=manifest[NOISE_FROM]))
    if manifest["lora"] is not None:
        load(backbone.unet, adapter)
    load_rows(backbone, adapter)
    if (adapter.path / RESIDUALS).is_file():
        backbone.residuals.extend(read_residuals(_verified(adapter, RESIDUALS), backbone))
    for number, entry in enumerate(manifest.get("concepts", ())):
        name, file = f"concept_{number}", CONCEPT.format(number)
        put_matrices(backbone.unet, _settings(entry["lora"]), _verified(adapter, file), name, str(adapter.path / file))
        told = {key: entry[key] for key in ("key", "phrase", "class_noun", "style")}
        backbone.concepts.append(Concept(adapter=name, **told))
    if backbone.concepts:
        activate(backbone.unet, None)


def detach(backbone: Backbone) -> None:
    """Take every adapter, token row, residual and concept off, leaving the base model as it was loaded."""
    detach_all(backbone.unet)
    tokens.detach_rows(backbone)
    backbone.residuals.clear()
    backbone.concepts.clear()
    backbone.low_parts.clear()


def load_rows(backbone: Backbone, adapter: Adapter) -> tuple[str, ...]:
    """Put the token rows of a stored adapter on, frozen, and return their identifiers; none if it has none."""
    if not (rows := stored_rows(adapter)):
        return ()
    tokens.attach_rows(backbone, rows)
    for parameter in tokens.row_parameters(backbone):
        parameter.requires_grad_(False)
    return tuple(rows)


def low_part(adapter: Adapter, below: int) -> Path | None:
    """The LoRA file that draws at timesteps under `below` once a refit of `adapter` draws above: the second part of one of two parts,
    else its only LoRA; None for 0, where nothing is below. ValueError if its parts meet elsewhere or its files are not what was saved."""
    boundary = read_manifest(adapter.path).get(NOISE_FROM, 0)
    if boundary not in (0, below):
        raise ValueError(
            f"{adapter.path}: has two parts that meet at timestep {boundary}; refit it with noise_from = {boundary}, not {below}"
        )
    if not below:
        return None
    name = LOW_WEIGHTS if boundary else WEIGHTS
    _verified(adapter, name)
    return adapter.path / name


def stored_rows(adapter: Adapter) -> tokens.Rows:
    """The token rows of a stored adapter, on the CPU; {} if it has none."""
    rows: tokens.Rows = {}
    if (adapter.path / ROWS).is_file():
        for key, row in _verified(adapter, ROWS).items():
            word, encoder = key.rsplit(".", 1)
            rows.setdefault(word, {})[encoder] = row
    return rows


def _verified(adapter: Adapter, name: str) -> dict[str, torch.Tensor]:
    """The tensors of one of the adapter's files, once all its files are known to be what was saved."""
    path = adapter.path / name
    if not path.is_file() or contents_sha256(adapter.path) != adapter.sha256:
        raise ValueError(f"{path}: contents do not match sha256 {adapter.sha256[:12]}...; restore the file or fit again")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: not a complete safetensors file ({error}); restore the file or fit again") from error
    if not all(value.isfinite().all() for value in tensors.values()):
        raise ValueError(f"{path}: holds values that are not finite; fit again with a lower learning rate")
    return tensors


def read_lora(adapter: Adapter) -> tuple[LoraSettings, dict[str, torch.Tensor]]:
    """The settings of a stored LoRA and its matrices, on the CPU, as "unet.LAYER.lora_A.weight" (r, in) and "..lora_B.." (out, r).

    Raises ValueError if the adapter holds none or its files are not what was saved.
    """
    lora = read_manifest(adapter.path)["lora"]
    if lora is None:
        raise ValueError(f"{adapter.path}: holds no LoRA for all of its subjects ({adapter.method}); use an adapter of another method")
    return _settings(lora), _verified(adapter, WEIGHTS)


def _settings(lora: dict) -> LoraSettings:
    return LoraSettings(rank=lora["rank"], alpha=lora["alpha"], targets=tuple(lora["targets"]))


def load(unet: nn.Module, adapter: Adapter, name: str = TRAINED) -> LoraSettings:
    """Put the LoRA of a stored adapter on `unet` under `name`, active; its settings come back.

    Raises ValueError if there is none, or as `put_on` does.
    """
    settings, state = read_lora(adapter)
    put_matrices(unet, settings, state, name, str(adapter.path / WEIGHTS))
    return settings


def put_matrices(
    unet: nn.Module, settings: LoraSettings, state: dict[str, torch.Tensor], name: str = TRAINED, origin: str = "LoRA"
) -> None:
    """Put a LoRA given by its matrices (see `read_lora`) on `unet` under `name`, active; ValueError unless it fits exactly."""
    from peft import get_peft_model_state_dict, set_peft_model_state_dict

    state = {key.removeprefix("unet."): value for key, value in state.items()}
    attach(unet, settings, seed=0, name=name)
    present = set(get_peft_model_state_dict(unet, adapter_name=name))
    if odd := sorted(present ^ set(state)):
        raise ValueError(f"{origin}: {len(odd)} matrices do not match this UNet, such as {odd[0]}; was it fitted on another model?")
    set_peft_model_state_dict(unet, state, adapter_name=name)
    activate(unet, name)
