"""The folder of a run: made once, recognised when the run is continued, held by one process at a time."""

import hashlib
import json
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from pydantic import BaseModel

from pipeline.settings.config import RunConfig, config_hash, deciding
from pipeline.tables import store
from pipeline.tables.journal import clear_staging, now, publish

SELFTRAIN = "selftrain"
PACKAGES = ("mudi", "torch", "diffusers", "transformers", "peft", "safetensors", "ray", "numpy", "pyarrow", "pillow")
Subjects = Mapping[str, Sequence[str]]


def open_run(config: RunConfig, inputs: Mapping[str, str] | None = None, subjects: Subjects | None = None) -> Path:
    """The folder of the run, made at the first call and recognised at every later one.

    `inputs` names what else decides results, such as {"combination toys": folder_sha256(...)}; `subjects`
    gives each combination's subject phrases in order, for the report. Raises ValueError, writing nothing,
    if the folder holds a run that was asked something else.
    """
    run_dir = run_folder(config.runs, config.name)
    if (run_dir / "run.json").exists():
        refuse_another_run(config, run_dir)
        refuse_changes(run_dir, {"inputs": read_run(run_dir)["inputs"]}, {"inputs": dict(inputs or {})})
    else:
        store.create_tables(run_dir)
        write_facts(run_dir, facts_of(SELFTRAIN, config, config_hash(config), inputs or {}, subjects or {}))
    return run_dir


def refuse_another_run(config: RunConfig, run_dir: Path) -> None:
    """Raise ValueError if the folder holds a run with other settings; inputs are left to `open_run`, which reads them."""
    if not (run_dir / "run.json").is_file():
        return
    stored = read_run(run_dir)
    if stored.get("kind", SELFTRAIN) != SELFTRAIN:
        raise ValueError(f"{run_dir}: holds a {stored['kind']}, not a self-training run; pick another `name`")
    refuse_changes(run_dir, deciding(stored["config"]), deciding(config.model_dump(mode="json")))


def refuse_changes(run_dir: Path, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """Raise ValueError that names the first keys in which nested settings differ; nothing if they agree."""
    old, new = _flat(dict(old)), _flat(dict(new))
    keys = [key for key in {**new, **old} if old.get(key) != new.get(key)]
    changes = "; ".join(f"{key} was {json.dumps(old.get(key))[:60]}, is {json.dumps(new.get(key))[:60]}" for key in keys[:3])
    rest = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
    if keys:
        raise ValueError(f"{run_dir}: holds a run with other settings ({changes}{rest}); pick another `name`, or undo the change")


def facts_of(kind: str, config: BaseModel, sha256: str, inputs: Mapping[str, str], subjects: Subjects) -> dict[str, Any]:
    """What run.json says of any run: its resolved settings, their hash, digests of its inputs, versions and the seed."""
    return {
        "kind": kind,
        "name": config.name,
        "created": now(),
        "config": config.model_dump(mode="json"),
        "config_sha256": sha256,
        "inputs": dict(inputs),
        "subjects": {key: list(phrases) for key, phrases in subjects.items()},
        "seed": config.seed,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def write_facts(run_dir: Path, facts: Mapping[str, Any]) -> None:
    """Stores run.json."""
    publish(run_dir, "run.json", json.dumps(facts, indent=2).encode() + b"\n")


def read_run(run_dir: Path) -> dict[str, Any]:
    """What run.json says. Raises ValueError if the folder holds no run."""
    path = Path(run_dir) / "run.json"
    if not path.is_file():
        raise ValueError(f"{run_dir}: no run here (run.json is missing); give the folder that a run made")
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        raise ValueError(f"{path}: not readable as JSON; restore it or start a run of another `name`") from None


def folder_sha256(folder: Path) -> str:
    """The sha256 of the names and bytes of all files below a folder, to notice edited photos."""
    digest = hashlib.sha256()
    for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(json.dumps([path.relative_to(folder).as_posix(), content]).encode())
    return digest.hexdigest()


@contextmanager
def sole_driver(run_dir: Path) -> Iterator[None]:
    """Holds the run for this process, and clears what killed starts were writing. Raises ValueError if another process holds it.

    The operating system ends the lock with its process, however that dies. On a file system without such
    locks this fails rather than leave a lock behind.
    """
    lock = FileLock(run_dir / "_lock", timeout=0, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"{run_dir}: another process works on this run; wait for it or stop it") from None
    try:
        clear_staging(run_dir)
        yield
    finally:
        lock.release()


def run_folder(runs: str, name: str) -> Path:
    """Where the run `name` lies among `runs`; ValueError for an address and for what cannot be written to."""
    if "://" in runs:
        raise ValueError(f"runs: {runs!r} is an address; only local (or mounted) folders are supported, give a path")
    folder = Path(os.path.abspath(runs)) / name
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        reason = "may not be written to" if there.is_dir() else "is no folder"
        raise ValueError(f"runs: {runs!r} cannot be used, {there} {reason}; give a folder of your own")
    return folder


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(values, dict):
        return {prefix: values}
    return {key: value for name, inner in values.items() for key, value in _flat(inner, f"{prefix}.{name}".lstrip(".")).items()}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
