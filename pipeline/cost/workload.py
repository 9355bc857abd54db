"""What a run file asks for, counted as the code runs it, and how much of it lies in the run folder already.

UNet passes are counted in rows: one picture once through the network. Guidance doubles them, DCO and the KL term
add a reference pass without gradients to each training row, a refit measures its drift at the end (two adapters at
ten times on every photo), and class priors, which fits share, cost as many pictures as there are batches needed. Nothing is written
and no weights are read; a stored adapter or chunk is believed by its name and is checked only when the run starts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mudi.adapter_folder import MANIFEST, work_folder
from mudi.fit import CHECKPOINTS_KEPT, FitSettings
from mudi.options import DRIFT_TIMES, RetrainSettings, Sampling
from mudi.passes import photos_of, refit_work
from mudi.personalization import Personalization
from mudi.records import Combination
from pipeline import plan
from pipeline.cost.merge_rows import made_once, unplanned
from pipeline.workers.fit_job import FitJob, folders_alone

CHECKPOINTS = "step-*.safetensors"
PRIORS = "class priors"  # the phase, and the owner of what no arm owns alone


@dataclass(frozen=True, kw_only=True)
class FitWork:
    """One adapter to make. `rows` go through the UNet in one micro-batch, priors included; `references` more passes
    of each without gradients. `done_steps` are in a checkpoint, all of them if the adapter is there. photos: of the combination.
    alone: how many subjects are fitted one by one, those left out that an earlier fit of the plan makes; None if all together.
    besides: rows forward and backward that a merge of such fits takes besides their steps; grams, pictures: of how many
    subjects it collects Grams, and how many pictures of their own they draw, earlier fits' left out (`pipeline.cost.merge_rows`).
    stored: whether the adapter is there.
    """

    owner: str
    kind: str
    method: str
    options: Personalization
    retraining: RetrainSettings | None
    combination: Combination
    steps: int
    done_steps: int
    accumulation: int
    rows: int
    references: int
    photos: int
    folder: Path
    alone: int | None = None
    besides: tuple[int, int] = (0, 0)
    grams: int = 0
    pictures: int = 0
    stored: bool = False

    @property
    def done(self) -> bool:
        return self.stored or (self.done_steps >= self.steps and not any(self.besides))

    @property
    def left(self) -> int:
        return max(0, self.steps - self.done_steps)

    @property
    def checkpoints(self) -> int:
        """The most checkpoints there are at once, the one being written included; each holds the fit's numbers three times,
        for Adam's state. Subjects that are fitted alone are fitted one after the other."""
        steps = self.steps if self.alone is None else self.steps // max(1, self.alone)
        return max(0, min(CHECKPOINTS_KEPT + 1, (steps - 1) // FitSettings.checkpoint_every))


@dataclass(frozen=True, kw_only=True)
class DrawWork:
    """One chunk to draw and to detect and compare in; `batch` is that of a whole chunk, `pictures` what this one has, and
    `paths` how many passes of the UNet one prediction takes."""

    owner: str
    chunk_id: str
    pictures: int
    batch: int
    sampling: Sampling
    prompt: str
    combination: str
    done: bool
    paths: int = 1

    @property
    def kind(self) -> str:
        return draw_kind(self.batch, self.sampling, self.paths)

    @property
    def calls(self) -> int:
        """Calls of the UNet for the chunk."""
        return calls_of_sampling(self.sampling) * self.paths


@dataclass(frozen=True, kw_only=True)
class JudgeWork:
    """Pictures that a metric scores after they are drawn."""

    metric: str
    pictures: int
    done: bool


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What runs together: class priors, fits, the chunks of one sweep, or metrics. Phases follow one another.

    priors: the batches that give enough if every picture shows its class; most_priors: the pictures at which a run gives up.
    """

    name: str
    priors: tuple[DrawWork, ...] = ()
    most_priors: int = 0
    fits: tuple[FitWork, ...] = ()
    draws: tuple[DrawWork, ...] = ()
    judged: tuple[JudgeWork, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Sums over work: `forward` and `backward` in rows of the UNet, `examples` in training pictures, priors included;
    `denoising_steps` of pictures, which guidance does not double."""

    fits: int = 0
    steps: int = 0
    examples: int = 0
    forward: int = 0
    backward: int = 0
    prior_pictures: int = 0
    pictures: int = 0
    denoising_steps: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(**{name: value + getattr(other, name) for name, value in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Workload:
    """All that a run file asks for. `shared` counts the cells of a benchmark that use another arm's adapter."""

    name: str
    phases: tuple[Phase, ...]
    shared: int = 0
    assumed: tuple[str, ...] = ()

    @property
    def priors(self) -> list[DrawWork]:
        return [draw for phase in self.phases for draw in phase.priors]

    @property
    def fits(self) -> list[FitWork]:
        return [fit for phase in self.phases for fit in phase.fits]

    @property
    def draws(self) -> list[DrawWork]:
        return [draw for phase in self.phases for draw in phase.draws]

    @property
    def judged(self) -> list[JudgeWork]:
        return [judge for phase in self.phases for judge in phase.judged]


def calls_of_sampling(sampling: Sampling) -> int:
    """Predictions for one chunk: its steps, and those that guidance by layout does again."""
    guidance = sampling.layout_guidance
    if guidance is None:
        return sampling.steps
    return sampling.steps + guidance.recurrence * min(sampling.steps, guidance.steps or sampling.steps)


def passes_of_sampling(sampling: Sampling) -> int:
    """UNet rows of one picture on one path."""
    return calls_of_sampling(sampling) * (1 if sampling.guidance == 1 else 2)


def draw_kind(batch: int, sampling: Sampling, paths: int = 1) -> str:
    """What decides the seconds of a call of the UNet and of what surrounds the calls."""
    told = {"guided": sampling.guidance != 1, "shifted": sampling.gamma, "by layout": sampling.layout_guidance}
    told[f"paths={paths}"] = paths > 1
    return " ".join([f"draw batch={batch}", *(word for word, holds in told.items() if holds)])


def count_fit(fit: FitWork, *, whole: bool = False) -> Counts:
    """What a fit still takes, or takes as a whole."""
    if fit.done and not whole:
        return Counts()
    steps = fit.steps if whole else fit.left
    rows = steps * fit.accumulation * fit.rows
    drift = 2 * len(DRIFT_TIMES) * fit.photos if fit.retraining else 0
    forward, backward = rows * (1 + fit.references) + drift + fit.besides[0], rows + fit.besides[1]
    return Counts(fits=1, steps=steps, examples=backward, forward=forward, backward=backward)


def count_draw(draw: DrawWork) -> Counts:
    """What a chunk takes."""
    return Counts(
        forward=draw.pictures * passes_of_sampling(draw.sampling) * draw.paths,
        pictures=draw.pictures,
        denoising_steps=draw.pictures * draw.sampling.steps,
    )


def total(phases: Iterable[Phase], *, whole: bool, owner: str | None = None) -> Counts:
    """The sum over phases, of one owner or all: of everything (`whole`) or of what is not there yet."""
    counts = Counts()
    for phase in phases:
        for fit in phase.fits:
            if owner in (None, fit.owner):
                counts += count_fit(fit, whole=whole)
        for draw in phase.draws:
            if owner in (None, draw.owner) and (whole or not draw.done):
                counts += count_draw(draw)
        for draw in phase.priors:
            if owner in (None, draw.owner) and (whole or not draw.done):
                counts += replace(count_draw(draw), pictures=0, prior_pictures=draw.pictures)
    return counts


def fit_work(job: FitJob, owner: str, options: Personalization, planned: set[Path] | None = None) -> FitWork:
    """The work of a job; `options` are those of the method's own fit, also where the job is a refit of it.

    Fits of subjects alone count with the first job that needs them: they are put into `planned`, and left out if they
    stand there already.
    """
    photos, folder, retraining = photos_of(job.combination), Path(job.out_dir), job.retraining
    single = None if retraining else options.subject_method(job.combination)
    work = refit_work(retraining, options.described(), job.combination) if retraining else (single or options).work(job.combination)
    steps, done, alone, besides, grams, pictures = job.steps, _done_steps(folder, job.steps), None, (0, 0), 0, 0
    if single is not None:
        planned, own = set() if planned is None else planned, options.work(job.combination)
        singles = folders_alone(job, options)
        mine = unplanned(singles, planned)
        steps, alone = work.steps * len(mine) + own.steps, len(mine)
        done = steps if done else sum(_done_steps(place, work.steps, folder) for place in mine)
        once = made_once(own, singles, planned)
        grams, pictures = sum(thing.gram for thing in once), sum(thing.pictures for thing in once)
        # Steps of a refinement count as steps of a fit: the difference is put right here.
        counted = own.steps * work.accumulation * work.rows
        besides = (sum(t.forward for t in once) + own.forward - counted * (1 + work.references), own.backward - counted)
    return FitWork(
        owner=owner, kind=work.kind, method=job.method, options=options, retraining=retraining, combination=job.combination, steps=steps,
        done_steps=done, accumulation=work.accumulation, rows=work.rows, references=work.references, photos=photos, folder=folder,
        alone=alone, besides=besides, grams=grams, pictures=pictures, stored=_stored(folder),
    )  # fmt: skip


def _stored(folder: Path) -> bool:
    return (folder / MANIFEST).is_file()


def _done_steps(folder: Path, steps: int, combined: Path | None = None) -> int:
    """Of the fit in `folder`; a subject's own keeps its checkpoints with the combination that it is made for, in a folder of
    its name or beside that."""
    if _stored(folder):
        return steps
    apart = folder if combined is None else work_folder(combined) / folder.name
    return max((int(path.stem.removeprefix("step-")) for work in (apart, work_folder(apart)) for path in work.glob(CHECKPOINTS)), default=0)


def draw_works(
    chunks: Sequence[plan.Chunk], samplings: Mapping[str, Sampling], batch: int, stored: set[str], owners: Mapping[str, str] | None = None,
    paths: Mapping[tuple[str, str], int] | None = None,
) -> tuple[DrawWork, ...]:  # fmt: skip
    """The chunks of a sweep as work; a chunk is done if all its candidates are among the `stored` ids. Owners by method,
    `paths` by method and combination, one where it says nothing."""
    missing = {chunk.chunk_id for chunk in plan.remaining(chunks, stored)}
    return tuple(
        DrawWork(
            owner=(owners or {}).get(chunk.keys[0].method, chunk.keys[0].method), chunk_id=chunk.chunk_id, pictures=len(chunk.keys),
            batch=batch, sampling=samplings[chunk.keys[0].method], prompt=chunk.prompt, combination=chunk.combination,
            done=chunk.chunk_id not in missing, paths=(paths or {}).get((chunk.keys[0].method, chunk.combination), 1),
        )
        for chunk in chunks
    )  # fmt: skip


def without_work(phase: Phase) -> Phase:
    """The phase with everything in it done, as after it was published."""
    return replace(phase, draws=tuple(replace(draw, done=True) for draw in phase.draws))
