"""Everything that a worker does, by kind of work; the same functions on Ray and in this process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mudi.records import Report
from pipeline.workers.draw import draw
from pipeline.workers.fit_job import fit
from pipeline.workers.judge import judge
from pipeline.workers.loaded import Loaded
from pipeline.workers.masks import cut_masks
from pipeline.workers.priors import make_priors

WORK: dict[str, Callable[[Loaded, Any, Report], Any]] = {
    "fit": fit,
    "draw": draw,
    "judge": judge,
    "priors": make_priors,
    "masks": cut_masks,
}


class Piece(Protocol):
    """A piece of work: a value that names its `kind`, a key of WORK, and says in `label` what it is about."""

    kind: str

    @property
    def label(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A piece of work that was given up, the reason in one line, and the error unless its worker died."""

    piece: Any
    reason: str
    error: Exception | None = None


# A piece is done: the piece and what its function gave. A fit moved: the piece and the step.
Received = Callable[[Any, Any], None]
Moved = Callable[[Any, int], None]


class Do(Protocol):
    """Work off pieces in their order, as many at once as there are workers, and return those that were given up.

    More than `allowed` failures end the work at once; pieces in flight are then left alone.
    """

    def __call__(self, pieces: Sequence[Piece], received: Received, moved: Moved | None = None, allowed: int = 0) -> list[Failure]: ...


def perform(loaded: Loaded, piece: Piece, report: Report) -> Any:
    """Do one piece of work with the models of this process."""
    import torch

    # torch keeps the number for each thread of a process.
    torch.set_num_threads(loaded.threads)
    return WORK[piece.kind](loaded, piece, report)
