"""A model as a folder of config.json and model.safetensors: written, checked, read back strictly."""

import json
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from mudi.model_facts import PICKLES
from mudi.user_files.file_kinds import first_bytes, recognise

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def write_model(folder: Path, config: dict, model: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Writes `config` and the model's state, floating entries cast to `dtype` if one is given."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: (v.to(dtype) if dtype and v.is_floating_point() else v).contiguous().cpu() for k, v in model.state_dict().items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def read_config(folder: Path, name: str = CONFIG) -> dict:
    """The contents of config.json, or of another file of settings; ValueError if it is missing or no JSON object."""
    path = folder / name
    if not path.is_file():
        raise ValueError(f"{path} is missing; a model folder holds {name} and its weights")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} line {error.lineno}: not valid JSON ({error.msg}); restore the file") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__}; expected an object of settings")
    return config


def check_safetensors(folder: Path) -> None:
    """Raises ValueError unless the folder holds weights as intact safetensors.

    Pickled weights are refused because unpickling runs code; beside a safetensors file they are ignored.
    Opening a safetensors file compares its header with its length, so truncation is found without reading it all.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; the model needs one with its weights as *.safetensors")
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        found = f"only {', '.join(pickles)}, which is refused because loading it can run code" if pickles else "none"
        raise ValueError(f"{folder}: no *.safetensors weights ({found}); convert the weights to safetensors")
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            what, remedy = recognise(first_bytes(file)) or (str(error), "fetch it again")
            raise ValueError(f"{file} is truncated or not a safetensors file ({what}); {remedy}") from error


def read_weights(folder: Path, model: nn.Module) -> nn.Module:
    """The model with the folder's weights, cast to the model's own dtype; every name and shape must match."""
    check_safetensors(folder)
    state, own = load_file(folder / WEIGHTS), model.state_dict()
    misfits = sorted(k for k in own.keys() | state.keys() if k not in own or k not in state or own[k].shape != state[k].shape)
    if misfits:
        raise ValueError(
            f"{folder / WEIGHTS}: {len(misfits)} of {len(own)} entries are missing, unknown or of another shape than {CONFIG} says, "
            f"first {', '.join(misfits[:5])}; the two files must come from the same model"
        )
    model.load_state_dict(state)
    return model
