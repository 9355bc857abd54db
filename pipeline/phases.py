"""A run as a list of phases: generators yield them in their order and are answered with their outcome.

The order of a run stands in one place, `rounds.phases` or `benchmark.phases`. The run answers each phase with its real
outcome (`pipeline.carry_out`), a plan with stand-ins (`expected`), so that a resume, a plan and an account of what is missing
all walk the same list.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mudi.adapter_folder import MANIFEST, read_manifest
from mudi.records import Adapter
from pipeline import plan
from pipeline.tables import store
from pipeline.workers.draw import DrawSettings
from pipeline.workers.fit_job import FitJob, place_of

Progress = Callable[[str, int, int], None]
# Candidates that a refit trains on, best first: id, prompt and score.
Chosen = tuple[tuple[str, str, float], ...]


@dataclass(frozen=True, kw_only=True)
class Priors:
    """Class priors that first fits want. Answered with the jobs, told where these lie."""

    name: str = "class priors"
    jobs: tuple[FitJob, ...]


@dataclass(frozen=True, kw_only=True)
class Fits:
    """Adapters to make, side by side. Answered with `Fitted`."""

    name: str
    jobs: tuple[FitJob, ...]


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """The adapters of a phase of fits, in the order of its jobs, and the seconds that it took."""

    adapters: tuple[Adapter, ...]
    seconds: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Chunks of one round, in the tables of the folder `run_dir`. Answered with the seconds that it took and each stage was busy.

    `final`: a published round, of which nothing is drawn again."""

    name: str
    run_dir: Path
    chunks: tuple[plan.Chunk, ...]
    settings: DrawSettings
    final: bool = False


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A selection among what is drawn. Answered with what `choose` returns, in a plan with `expected`."""

    name: str
    choose: Callable[[], Any]
    expected: Any


@dataclass(frozen=True, kw_only=True)
class Judgements:
    """Metrics of stored pictures, beside those they were drawn with: name -> weights. `chunks` are all that have to have them."""

    name: str
    run_dir: Path
    chunks: tuple[plan.Chunk, ...]
    metrics: Mapping[str, Mapping] = field(default_factory=dict)
    combinations: Mapping = field(default_factory=dict)

    @property
    def round(self) -> int:
        """The round whose tables these are."""
        return self.chunks[0].round if self.chunks else 0


Phase = Priors | Fits | Draws | Choice | Judgements
Phases = Generator[Phase, Any, None]


def follow(phases: Phases, answer: Callable[[Phase], Any]) -> None:
    """Walk through phases, answering each."""
    try:
        phase = next(phases)
        while True:
            phase = phases.send(answer(phase))
    except StopIteration:
        return


def expected(phase: Phase) -> Any:
    """The answer of a phase that is not carried out: adapters as they are stored, or stand-ins whose sha256 no file has."""
    match phase:
        case Priors():
            return phase.jobs
        case Fits():
            return Fitted(adapters=tuple(map(stored_or_planned, phase.jobs)))
        case Draws():
            return {}
        case Choice():
            return phase.expected
    return None


def listed(phases: Phases) -> list[Phase]:
    """All phases, none of them carried out."""
    found: list[Phase] = []

    def note(phase: Phase) -> Any:
        found.append(phase)
        return expected(phase)

    follow(phases, note)
    return found


def stored_or_planned(job: FitJob) -> Adapter:
    """The job's adapter as its folder says, or one that stands for it until it is fitted."""
    folder = place_of(job)
    stored = read_manifest(folder) if (folder / MANIFEST).is_file() else None
    sha256, round = (stored["sha256"], stored["round"]) if stored else (f"planned {folder}", job.round + 1 if job.start else 0)
    return Adapter(method=job.method, combination=job.combination.key, round=round, path=folder, sha256=sha256)


def is_fitted(job: FitJob) -> bool:
    """Whether the job's adapter is there, by its manifest alone. A subject's own fit is not wanted once the adapter is there that
    it is made for."""
    return any((folder / MANIFEST).is_file() for folder in (place_of(job), Path(job.out_dir)))


def undrawn(phase: Draws) -> list[plan.Chunk]:
    """The chunks whose files are not there; a broken file is noticed when the phase is carried out."""
    if phase.final or not phase.chunks:
        return []
    there = store.stored_chunks(phase.run_dir, phase.chunks[0].round)
    return [chunk for chunk in phase.chunks if chunk.chunk_id not in there]


def unjudged(phase: Judgements) -> dict[str, tuple[str, ...]]:
    """Chunk -> the metrics that it lacks, by names of files."""
    has = store.named_metrics(phase.run_dir, phase.round) if phase.metrics else {}
    lacks = {chunk.chunk_id: tuple(m for m in phase.metrics if m not in has.get(chunk.chunk_id, ())) for chunk in phase.chunks}
    return {chunk_id: metrics for chunk_id, metrics in lacks.items() if metrics}


def is_anything_left(phases: Phases) -> bool:
    """Whether some phase has work for workers."""
    return any(_is_left(phase) for phase in listed(phases))


def _is_left(phase: Phase) -> bool:
    match phase:
        case Fits():
            return not all(map(is_fitted, phase.jobs))
        case Draws():
            return bool(undrawn(phase))
        case Judgements():
            return bool(unjudged(phase))
    return False
