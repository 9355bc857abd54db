"""What a run writes down as it goes: whole files, an event log, and markers of completed phases."""

import json
import os
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

STAGING = "_staging"


def publish(run_dir: Path, relative: str, data: bytes) -> Path:
    """Writes a file of the run so that readers see the old content or the new, never a part.

    The bytes go to `_staging`, reach the disk, and are renamed into place; the rename is made durable too.
    """
    target = run_dir / relative
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        _stage(run_dir, data).replace(target)
    except FileNotFoundError:
        # A report may be written at the moment at which a start of the run clears `_staging`; a run starts once.
        _stage(run_dir, data).replace(target)
    folder = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
    return target


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file that lies in no run's folder, such as one beside an adapter, by rename: old content or new, never a part."""
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    part.write_bytes(data)
    part.replace(path)


def clear_staging(run_dir: Path) -> None:
    """Take away what processes that were killed while writing left in `_staging`, of the run and of tables within it.

    Only for the process that holds the run. Nothing there is read by anyone.
    """
    for folder in (run_dir / STAGING, *run_dir.glob(f"*/{STAGING}")):
        for path in folder.glob("*"):
            path.unlink(missing_ok=True)


def _stage(run_dir: Path, data: bytes) -> Path:
    staged = run_dir / STAGING / uuid.uuid4().hex
    staged.parent.mkdir(parents=True, exist_ok=True)
    with staged.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return staged


def append_event(run_dir: Path, **fields: Any) -> None:
    """Adds one line of JSON to events.jsonl, with the time (UTC) first."""
    line = json.dumps({"time": now(), **fields}) + "\n"
    with (run_dir / "events.jsonl").open("a", encoding="utf-8") as file:
        file.write(line)


def read_events(run_dir: Path, since: float = 0.0) -> list[dict[str, Any]]:
    """The events of a log since a clock time. It is a log: a line that cannot be read is no event, and no error."""
    log, found = run_dir / "events.jsonl", []
    for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else ():
        try:
            event = json.loads(line)
            if event["event"] and datetime.fromisoformat(event["time"]).timestamp() >= since:
                found.append(event)
        except (ValueError, TypeError, KeyError):
            continue
    return found


def write_marker(run_dir: Path, round: int, phase: str, payload: Mapping[str, Any]) -> None:
    """Records that a phase of a round is complete, with what the next phase needs to know of it."""
    publish(run_dir, f"_state/round={round}/{phase}.json", json.dumps(dict(payload), sort_keys=True).encode())


def read_marker(run_dir: Path, round: int, phase: str) -> dict[str, Any] | None:
    """The payload of a completed phase, or None if it has not been completed."""
    path = run_dir / f"_state/round={round}/{phase}.json"
    return json.loads(path.read_bytes()) if path.exists() else None


def now() -> str:
    """The time as ISO 8601 in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
