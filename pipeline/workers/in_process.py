"""The workers' twin without Ray: the same pieces of work, one after the other in this process."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from pipeline.settings.config import Cluster
from pipeline.workers.loaded import Loaded
from pipeline.workers.worker import Do, Failure, Moved, Piece, Received, perform


@contextmanager
def in_this_process(cluster: Cluster) -> Iterator[tuple[Do, Callable[[], None]]]:
    """A `Do` that works here, on a GPU if the file's workers have one, and a function that has nothing to start."""
    slot = cluster.workers
    loaded = Loaded("cuda" if slot.gpus else "cpu", slot.threads)

    def do(pieces: Sequence[Piece], received: Received, moved: Moved | None = None, allowed: int = 0) -> list[Failure]:
        failures: list[Failure] = []
        for piece in pieces:

            def report(step: int, loss: float, piece: Piece = piece) -> None:
                if moved is not None:
                    moved(piece, step)

            try:
                result = perform(loaded, piece, report)
            except (ValueError, RuntimeError, FloatingPointError, OSError) as error:
                loaded.worn = None
                failures.append(Failure(piece=piece, reason=f"{type(error).__name__}: {error}", error=error))
                if len(failures) > allowed:
                    return failures
            else:
                received(piece, result)
        return failures

    yield do, lambda: None
