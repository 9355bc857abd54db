"""One of every kind of damage to weights, adapters and tables that is refused when they are read."""

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from mudi import adapters, models
from mudi.weights_folder import WEIGHTS as MODEL
from mudi.weights_folder import read_weights, write_model

Damage = Callable[[Path], None]


def content(data: bytes) -> Damage:
    return lambda path: path.write_bytes(data) and None


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flipped(place: int) -> Damage:
    """One bit flipped in the byte at `place`, from the end if negative."""

    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[place] ^= 1
        path.write_bytes(data)

    return flip


def pickled(path: Path) -> None:
    path.unlink()
    torch.save({"weight": torch.zeros(2, 3)}, path)


def renamed_pickle(path: Path) -> None:
    path.unlink()
    torch.save({}, path.with_suffix(".pth"))


def of_another_model(path: Path) -> None:
    save_file({"other.weight": torch.zeros(2, 3)}, path)


# Kind, what is done to model.safetensors, words of the answer of `read_weights`.
WEIGHTS: tuple[tuple[str, Damage, tuple[str, ...]], ...] = (
    ("zero bytes", content(b""), ("model.safetensors", "an empty file, 0 bytes")),
    ("cut in half", cut, ("model.safetensors is truncated", "fetch it again")),
    ("a pickle under the name of safetensors", pickled, ("model.safetensors", "a PyTorch pickle", "can run code")),
    ("a bare pickle under the name of safetensors", content(pickle.dumps({}, 4)), ("model.safetensors", "it is refused because")),
    ("only a pickle", renamed_pickle, ("only model.pth", "refused because loading it can run code")),
    ("a header of 10^15 bytes", content((10**15).to_bytes(8, "little") + b"{}"), ("model.safetensors is truncated", "fetch it again")),
    ("a Git LFS pointer", content(b"version https://git-lfs.github.com/spec/v1\n"), ('run "git lfs pull"',)),
    ("weights of another model", of_another_model, ("3 of 2 entries", "first bias, other.weight, weight")),
)


def read_model(folder: Path, damage: Damage) -> None:
    """A model of one layer, stored, damaged and read."""
    torch.manual_seed(0)
    write_model(folder, {"width": 3}, nn.Linear(3, 2))
    damage(folder / MODEL)
    read_weights(folder, nn.Linear(3, 2))


def rewritten(change: Callable[[dict], dict]) -> Damage:
    """The LoRA's tensors changed, and the manifest made to agree with them."""

    def rewrite(folder: Path) -> None:
        path = folder / adapters.WEIGHTS
        save_file(change(load_file(path)), path)
        manifest = json.loads((folder / adapters.MANIFEST).read_text())
        (folder / adapters.MANIFEST).write_text(json.dumps(manifest | {"sha256": adapters.file_sha256(path)}))

    return rewrite


def weights(damage: Damage) -> Damage:
    return lambda folder: damage(folder / adapters.WEIGHTS)


def manifest(damage: Damage) -> Damage:
    return lambda folder: damage(folder / adapters.MANIFEST)


def without_manifest(folder: Path) -> None:
    (folder / adapters.MANIFEST).unlink()


def not_a_number(state: dict) -> dict:
    return {**state, next(iter(state)): torch.full_like(state[next(iter(state))], torch.nan)}


# Kind, what is done to the folder of an adapter, words of the answer on putting it on the miniature.
ADAPTERS: tuple[tuple[str, Damage, tuple[str, ...]], ...] = (
    ("one bit flipped", weights(flipped(-5)), ("do not match sha256", "restore the file or fit again")),
    ("cut in half", weights(cut), ("do not match sha256",)),
    ("no manifest", without_manifest, ("manifest.json: no such manifest",)),
    ("a manifest that is no JSON", manifest(cut), ("manifest.json: not readable as JSON",)),
    ("a manifest without its keys", manifest(content(b"{}")), ("manifest.json: has no 'method'",)),
    ("values that are not numbers", rewritten(not_a_number), ("values that are not finite",)),
    (
        "no key of this model",
        rewritten(lambda state: {f"other.{key}": value for key, value in state.items()}),
        ("matrices do not match this UNet",),
    ),
    (
        "a part of the keys",
        rewritten(lambda state: {key: value for key, value in state.items() if "mid_block" not in key}),
        ("matrices do not match this UNet, such as mid_block",),
    ),
)  # fmt: skip


def put_on_adapter(folder: Path, damage: Damage) -> None:
    """A fresh adapter of the miniature, stored, damaged, and put on again."""
    backbone = models.load("miniature")
    settings = adapters.LoraSettings(rank=2, alpha=2)
    adapters.attach(backbone.unet, settings, seed=0)
    stored = adapters.save(backbone, folder, settings, method="mudi", combination="two", round=0, details={})
    damage(folder)
    found = adapters.find(folder) if (folder / adapters.MANIFEST).is_file() else None
    adapters.put_on(backbone, found or stored)


def table(change: Callable[[pa.Table], pa.Table]) -> Damage:
    """The rows changed and stored again as any other program would."""
    return lambda path: pq.write_table(change(pq.read_table(path, partitioning=None)), path, write_page_checksum=True)


def column(name: str, values: Callable[[pa.Table], pa.Array]) -> Damage:
    def change(rows: pa.Table) -> pa.Table:
        return rows.set_column(rows.column_names.index(name), name, values(rows))

    return table(change)


def extension(rows: pa.Table) -> pa.Array:
    """The scores as a type whose description is a pickle, as old programs stored it."""
    field_type = pa.opaque(pa.float64(), "pickled", "elsewhere")
    return pa.ExtensionArray.from_storage(field_type, rows["value"].combine_chunks())


# Kind, what is done to one file of scores, words of the answer of `mudi report`.
TABLES: tuple[tuple[str, Damage, tuple[str, ...]], ...] = (
    ("zero bytes", content(b""), ("broken Parquet file", "start the run again to redraw it")),
    ("cut in half", cut, ("broken Parquet file", "redraw it")),
    ("one bit flipped in a column", flipped(60), ("broken Parquet file", "redraw it")),
    ("a text instead of a table", content(b"candidate_id,value\n"), ("broken Parquet file",)),
    ("a further column", table(lambda rows: rows.append_column("mood", rows["metric"])), ("columns differ from version 1 of scores",)),
    ("a missing column", table(lambda rows: rows.drop_columns(["scorer"])), ("columns differ from version 1 of scores",)),
    ("a score that is text", column("value", lambda rows: rows["value"].cast(pa.string())), ("columns differ from version 1",)),
    ("a score that is not a number", column("value", lambda rows: pa.array([float("nan")] * len(rows))), ("a score is not finite",)),
    ("an infinite score", column("value", lambda rows: pa.array([float("inf")] * len(rows))), ("a score is not finite",)),
    ("a type of another program", column("value", extension), ("columns differ from version 1 of scores",)),
    (
        "a later version",
        column("schema_version", lambda rows: pa.array([2] * len(rows), pa.int32())),
        ("written as version 2, known is 1",),
    ),
)  # fmt: skip


def score_file(run_dir: Path) -> Path:
    return next(path for path in sorted((run_dir / "scores" / "round=0").glob("*.parquet")) if path.stem != "columns")


def copy_of(run_dir: Path, parent: Path) -> Path:
    return shutil.copytree(run_dir, parent / "run")
