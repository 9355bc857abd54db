"""How much memory a fit took at most, and how much this process and all it started use together."""

import resource
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

SECONDS_BETWEEN_LOOKS = 5.0
RESET_PEAK = "5"  # what /proc/self/clear_refs takes to begin the peak of resident memory anew


def _memory_of(process: psutil.Process) -> int:
    """Bytes in memory. Shared pages count once (PSS) where the system tells, else private ones (USS)."""
    try:
        told = process.memory_full_info()
        return getattr(told, "pss", told.uss)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0


def total_memory() -> int:
    """Bytes used now by this process and its descendants; a Ray that was started here is among them."""
    me = psutil.Process()
    return sum(map(_memory_of, [me, *me.children(recursive=True)]))


@contextmanager
def peak_on(device) -> Iterator[Callable[[], int]]:
    """A function that tells the peak of the block in bytes: torch's allocations on a GPU, else the resident memory of this process.

    Costs nothing while the block runs: the kernel keeps the peak. Where it cannot be begun anew (another system than Linux, or a
    sandbox), the peak is that of the process's whole life.
    """
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        yield lambda: torch.cuda.max_memory_allocated(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    except OSError:
        yield lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        return
    yield _resident_peak


def _resident_peak() -> int:
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


@contextmanager
def peak_memory() -> Iterator[Callable[[], int]]:
    """A function that tells the highest total in bytes, which is looked at every five seconds until the block ends; a shorter rise is
    missed."""
    peak, stop = 0, threading.Event()

    def look() -> None:
        nonlocal peak
        while True:
            peak = max(peak, total_memory())
            if stop.wait(SECONDS_BETWEEN_LOOKS):
                return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield lambda: peak
    finally:
        stop.set()
        thread.join()
