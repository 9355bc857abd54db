"""An adapter as a folder: its files appear together, its manifest says what they are, a changed byte is noticed, and the work
folder beside it, checkpoints and class priors of a fit in progress, goes once the adapter is stored."""

import glob
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mudi.model_facts import file_sha256
from mudi.records import Adapter

WEIGHTS, ROWS, MANIFEST = "pytorch_lora_weights.safetensors", "token_rows.safetensors", "manifest.json"
RESIDUALS = "residuals.safetensors"
# The second LoRA of an adapter of two parts, which draws at timesteps under NOISE_FROM, a key of the manifest.
LOW_WEIGHTS, NOISE_FROM = "low_noise_lora_weights.safetensors", "noise_from"
CONTENTS = (WEIGHTS, ROWS, RESIDUALS, LOW_WEIGHTS)
CONCEPT = "concept_{}.safetensors"
# A LoRA file names its matrices "unet.LAYER.lora_A.weight" (r, in) and "unet.LAYER.lora_B.weight" (out, r).
DOWN, UP, PREFIX = ".lora_A.weight", ".lora_B.weight", "unet."


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The fit that made an adapter, as its manifest tells it; `details`: hyperparameters, seed, base model and what else it says."""

    method: str
    combination: str
    round: int = 0
    details: Mapping = field(default_factory=dict)


def begin(folder: Path) -> Path:
    """An empty folder beside `folder`, for the files of an adapter that `finish` puts there."""
    staging = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    return staging


def finish(staging: Path, folder: Path, origin: Origin, lora: Mapping | None) -> Adapter:
    """The adapter whose files lie in `staging`, with its manifest, in the place of `folder`; `lora` are the settings of WEIGHTS. What
    its fit kept goes then (`clear_work`)."""
    told = {"method": origin.method, "combination": origin.combination, "round": origin.round, "sha256": contents_sha256(staging)}
    manifest = {**told, "lora": lora, **origin.details}
    (staging / MANIFEST).write_text(json.dumps(manifest, indent=1, sort_keys=True))
    for path in (*staging.iterdir(), staging):
        _reach_disk(path)
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)
    _reach_disk(folder.parent)
    clear_work(folder)
    return Adapter(path=folder, **told)


def _reach_disk(path: Path) -> None:
    """A file's bytes or a folder's names are on the disk once this returns: what the adapter was made from may then go."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def contents(folder: Path) -> list[Path]:
    """The files of an adapter's numbers, in a fixed order."""
    return [path for name in CONTENTS if (path := folder / name).is_file()] + sorted(folder.glob(CONCEPT.format("*")))


def contents_sha256(folder: Path) -> str:
    """The sha256 of the one weights file, or of the digests of all."""
    digests = [file_sha256(path) for path in contents(folder)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def read_manifest(folder: Path) -> dict:
    """What the manifest of an adapter says; ValueError if there is none."""
    path = folder / MANIFEST
    if not path.is_file():
        raise ValueError(f"{path}: no such manifest; expected a folder written by this program with {WEIGHTS} and {MANIFEST}")
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); restore the file or fit again") from error
    if lacking := [key for key in ("method", "combination", "round", "sha256", "lora") if key not in manifest]:
        raise ValueError(f"{path}: has no {lacking[0]!r}; restore the file or fit again")
    return manifest


def find(folder: Path) -> Adapter | None:
    """The adapter stored in `folder`, or None if there is none or its weights do not match the manifest."""
    if not (folder / MANIFEST).is_file():
        return None
    manifest = read_manifest(folder)
    if contents_sha256(folder) != manifest["sha256"]:
        return None
    return Adapter(path=folder, **{key: manifest[key] for key in ("method", "combination", "round", "sha256")})


def work_folder(out_dir: Path) -> Path:
    """Where the fit that makes the adapter `out_dir` keeps its checkpoints."""
    return out_dir.with_name(out_dir.name + ".work")


def clear_work(out_dir: Path) -> None:
    """Take away what the fit of the stored adapter `out_dir` kept, and what savings of it that were killed left.

    Nothing here is needed again: a stored adapter is never fitted anew, and another seed has another folder. What
    cannot be taken away now stays for the next start.
    """
    for left in (work_folder(out_dir), *out_dir.parent.glob(f".{glob.escape(out_dir.name)}.*.part")):
        shutil.rmtree(left, ignore_errors=True)
