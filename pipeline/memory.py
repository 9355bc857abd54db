"""How much memory this process and all it started use together, watched while a block runs."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

SECONDS_BETWEEN_LOOKS = 1.0


@dataclass
class Peak:
    """The highest total seen, in bytes. Shared pages count once (PSS) where the system tells, else private ones (USS)."""

    bytes: int = 0


def _memory_of(process: psutil.Process) -> int:
    try:
        info = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
    return getattr(info, "pss", 0) or info.uss


def total_memory() -> int:
    """Bytes used now by this process and its descendants; a Ray that was started here is among them."""
    me = psutil.Process()
    return sum(map(_memory_of, [me, *me.children(recursive=True)]))


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """A `Peak` that is updated about once a second until the block ends."""
    peak, stop = Peak(), threading.Event()

    def look() -> None:
        while True:
            peak.bytes = max(peak.bytes, total_memory())
            if stop.wait(SECONDS_BETWEEN_LOOKS):
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
