"""Gram matrices X^T X of the inputs of attention layers, summed while a UNet runs: what gradient fusion knows of a concept.

Layers that are fed the same rows share one matrix: q, k and v of a self-attention, and k and v of every cross-attention of one
text width (the text states). Source: the objective of Mix-of-Show (arXiv 2305.18292) depends on the inputs through these alone,
so their size does not grow with the number of sampling steps, as the inputs that the released code stores do.
"""

import json
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from mudi.adapter_size import TEXT, bytes_of_widths, shared_key
from mudi.options import LoraSettings

MANIFEST = "grams"
PART = ".part"
ABANDONED = 24 * 3600  # seconds


@dataclass(frozen=True, kw_only=True)
class Grams:
    """sums: key -> X^T X (in, in). rows: key -> how many input rows are in it. keys: layer name in the UNet -> key."""

    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)
    keys: dict[str, str] = field(default_factory=dict)

    def key(self, layer: str) -> str:
        """The key under which a layer's Gram stands; ValueError if it has none."""
        if layer not in self.keys:
            raise ValueError(f"no Gram of layer {layer!r}; collect it together with the others, {len(self.keys)} layers are there")
        return self.keys[layer]

    def mean(self, layer: str) -> torch.Tensor:
        """X^T X / n (in, in) of a layer's inputs X (n, in), in the dtype it was summed in; ValueError if nothing ran through it."""
        key = self.key(layer)
        if not self.rows[key]:
            raise ValueError(f"the Gram of layer {layer!r} has no rows; run the UNet while collecting, with a mask that keeps some token")
        return self.sums[key] / self.rows[key]


def attention_layers(unet: nn.Module, targets: Sequence[str] = LoraSettings().targets) -> list[str]:
    """The names of the UNet's layers that a LoRA with these targets sits on, sorted; with or without adapters attached."""
    return sorted(
        name for name, module in unet.named_modules() if _linear(module) and any(name.endswith(f".{target}") for target in targets)
    )  # fmt: skip


def gram_bytes(unet: nn.Module, targets: Sequence[str] = LoraSettings().targets) -> int:
    """Bytes of one concept's Grams; shapes are enough, so the UNet may lie on the meta device. SDXL: 1.67e9."""
    modules = dict(unet.named_modules())
    return bytes_of_widths({name: modules[name].in_features for name in attention_layers(unet, targets)})


@contextmanager
def collecting(unet: nn.Module, layers: Sequence[str], text_mask: torch.Tensor | None = None, into: Grams | None = None) -> Iterator[Grams]:
    """While this is open, every pass of the UNet adds the inputs of `layers` to the Grams it gives.

    text_mask: bool (B, T), the tokens whose states count in cross-attention keys and values (the real ones without the first);
    all if not given. Passes then have exactly B rows, so run them without an unconditional half. into: Grams to go on with, for
    another prompt with another mask. Sums are float32, those of text states float64: a few tokens span a small part of their
    width, and in the rest float32's rounding, which a small ridge does not cover, would pass for inputs (it changed the fused
    update by 16 % on unseen states of width 1024). Raises ValueError for names that are no linear layer.
    """
    modules = dict(unet.named_modules())
    if wrong := [name for name in layers if not _linear(modules.get(name))]:
        raise ValueError(f"{wrong[0]!r} is no linear layer of this UNet; take names from attention_layers")
    if text_mask is not None and (text_mask.dtype != torch.bool or text_mask.ndim != 2):
        raise ValueError(f"text_mask is {text_mask.dtype} of shape {tuple(text_mask.shape)}; give bool (B, T), true for tokens that count")
    grams = into or Grams()
    handles, owners = [], set()
    try:
        for name in layers:
            key, module = shared_key(name, modules[name].in_features), modules[name]
            grams.keys[name] = key
            if key in owners:
                continue
            owners.add(key)
            if key not in grams.sums:
                width = (module.in_features, module.in_features)
                dtype = torch.float64 if key.startswith("text.") else torch.float32
                grams.sums[key] = torch.zeros(width, dtype=dtype, device=module.weight.device)
                grams.rows[key] = 0
            handles.append(module.register_forward_pre_hook(_adding(grams, key, text_mask if TEXT.fullmatch(name) else None)))
        yield grams
    finally:
        for handle in handles:
            handle.remove()


def save(grams: Grams, path: Path) -> None:
    """Write a safetensors file whose metadata says how many rows each matrix sums and which layers it serves; whole or not at all.

    What lies there is replaced. The part that is written first has a name of its own, also among the nodes that share a disk.
    """
    staging = path.with_name(f".{path.name}.{uuid.uuid4().hex}{PART}")
    path.parent.mkdir(parents=True, exist_ok=True)
    manifest = {"rows": grams.rows, "keys": grams.keys}
    # A single key: safetensors writes several in an order of its own, and equal Grams must have equal bytes.
    tensors = {key: value.cpu().contiguous() for key, value in sorted(grams.sums.items())}
    try:
        save_file(tensors, staging, metadata={MANIFEST: json.dumps(manifest, sort_keys=True)})
        staging.rename(path)
    finally:
        staging.unlink(missing_ok=True)


def clear_parts(folder: Path) -> None:
    """Take away the parts that killed writers left in a folder of Grams: those that nobody wrote to for a day.

    A whole file is written in seconds to minutes and renamed at once, so none of them is in use; younger ones may be, on another node.
    """
    for part in folder.glob(f".*{PART}"):
        try:
            if time.time() - part.stat().st_mtime > ABANDONED:
                part.unlink()
        except FileNotFoundError:
            continue  # renamed by its writer, or cleared by another process


def load(path: Path) -> Grams:
    """What `save` wrote, on the CPU, read from the file as it is used; ValueError if it is something else or cut."""
    try:
        with safe_open(path, "pt") as file:
            manifest = json.loads((file.metadata() or {}).get(MANIFEST, "{}"))
            sums = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path}: not a complete file of Grams ({error}); collect them again") from error
    grams = Grams(sums=sums, rows=manifest.get("rows", {}), keys=manifest.get("keys", {}))
    if not sums or set(sums) != set(grams.rows) or set(sums) != set(grams.keys.values()):
        raise ValueError(f"{path}: holds no Grams or not those that its manifest lists; collect them again")
    return grams


def _adding(grams: Grams, key: str, mask: torch.Tensor | None):
    @torch.no_grad()
    def hook(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        states = inputs[0]
        if mask is not None and mask.shape != states.shape[:2]:
            raise ValueError(f"text_mask has shape {tuple(mask.shape)}, the text states {tuple(states.shape[:2])}; give one entry a token")
        kept = states.reshape(-1, states.shape[-1]) if mask is None else states[mask.to(states.device)]
        kept = kept.to(grams.sums[key])
        grams.sums[key].addmm_(kept.T, kept)
        grams.rows[key] += len(kept)

    return hook


def _linear(module: nn.Module | None) -> bool:
    """A linear layer, plain or under an adapter's wrapper, which is what the rows go into."""
    return isinstance(getattr(module, "base_layer", module), nn.Linear) and hasattr(module, "in_features")
