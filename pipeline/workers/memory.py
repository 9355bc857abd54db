"""How much memory this process and all it started use together, watched while a block runs."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch

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
def peak_on(device: "torch.device") -> Iterator[Callable[[], int]]:
    """A function that tells the peak of the block in bytes: what torch allocated on a GPU, else this whole process."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device)
        return
    with peak_memory() as peak:
        yield lambda: max(peak.bytes, total_memory())


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
