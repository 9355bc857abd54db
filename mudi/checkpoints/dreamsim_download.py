"""The published DreamSim ensemble, once downloaded and unzipped, to the folder of safetensors that the project reads.

From the dreamsim release v0.2.0 take `dreamsim_ensemble_checkpoint.zip`, and from DINO's release
`dino_vitbase16_pretrain.pth` (the backbone that the package fetches through torch.hub). Files are read with
`weights_only=True`, which runs no code from them.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import load_file

from mudi.checkpoints.dreamsim_trunks import ENSEMBLE, DreamSim, save_dreamsim

CLIP_FILES = ("clip_vitb16_pretrain.pth.tar", "open_clip_vitb16_pretrain.pth.tar")


@torch.no_grad()
def convert_ensemble(download: Path, dino_backbone: Path, folder: Path) -> None:
    """Writes the ensemble with its LoRA merged. download: the unzipped folder; dino_backbone: dino_vitbase16_pretrain.pth."""
    paths = [dino_backbone, *(download / name for name in CLIP_FILES)]
    for path in (*paths, download / "ensemble_lora" / "adapter_config.json"):
        if not path.is_file():
            raise ValueError(f"{path} is missing; unzip dreamsim_ensemble_checkpoint.zip and fetch dino_vitbase16_pretrain.pth")
    dino, *clips = (torch.load(path, map_location="cpu", weights_only=True) for path in paths)
    model = DreamSim(ENSEMBLE)
    for trunk, state in zip(model.trunks, [dino, *(clip["state_dict"] for clip in clips)], strict=True):
        trunk.vit.load_state_dict({key: value for key, value in state.items() if key != "proj"})
        if trunk.projection is not None:
            trunk.projection.copy_(state["proj"])
    _merge_lora(model, download / "ensemble_lora")
    save_dreamsim(folder, model)


def _merge_lora(model: DreamSim, adapter: Path) -> None:
    """Adds alpha/r B A to every weight that the peft adapter changes."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    if (adapter / "adapter_model.safetensors").is_file():
        state = load_file(adapter / "adapter_model.safetensors")
    else:
        state = torch.load(adapter / "adapter_model.bin", map_location="cpu", weights_only=True)
    weights = dict(model.named_parameters())
    downs = [key for key in state if key.endswith(".lora_A.weight")]
    if 2 * len(downs) != len(state):
        raise ValueError(f"{adapter}: {len(state)} entries, {len(downs)} of them lora_A; expected pairs of lora_A and lora_B only")
    for key in downs:
        # base_model.model.extractor_list.0.model.blocks.0.attn.qkv becomes trunks.0.vit.blocks.0.attn.qkv
        _, _, path = key.removesuffix(".lora_A.weight").partition("extractor_list.")
        index, _, module = path.partition(".model.")
        up = state[key.replace(".lora_A.", ".lora_B.")]
        weights[f"trunks.{index}.vit.{module}.weight"] += config["lora_alpha"] / config["r"] * up @ state[key]
