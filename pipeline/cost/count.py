"""What a run asks for, counted from its list of phases, and how much of it is there already.

UNet passes are counted in rows: one picture once through the network. Guidance doubles them, DCO and the KL term add a pass without
gradients to each training row, a refit measures its drift at the end. Nothing is written and no weights are read.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mudi.adapter_size import FLOAT32, Architecture, gram_bytes, known_architecture
from mudi.options import Sampling
from mudi.prior_folder import kept_by_batch, most_batches, next_batches
from mudi.records import Combination
from mudi.work_folder import work_folder
from pipeline import arms as planning
from pipeline.carry_out import phases_of
from pipeline.class_priors import FOLDER, needs_of
from pipeline.cost.calibration import judge_name
from pipeline.cost.method_work import Work, adapter_numbers, described, refit_work, subject_method, work
from pipeline.phases import Draws, Fits, Judgements, Phase, Priors, is_fitted, listed, undrawn, unjudged
from pipeline.ready import Ready
from pipeline.settings.benchmark_config import BenchmarkConfig
from pipeline.workers.fit_job import FitJob, folders_alone, options_of, place_of

LEFT_OUT = (
    "headers and manifests of files, what earlier runs drew or collected beside subjects' fits, candidates that fail, and models that "
    "a worker loads while others work"
)
PRIORS = "class priors"  # the phase, and the owner of what no arm owns alone
# A checkpoint every so many steps, of the numbers and both of Adam's moments; two are kept while a third is written.
CHECKPOINT_EVERY, CHECKPOINTS, CHECKPOINT_COPIES = 200, 3, 3

Stage = Literal["priors", "fit", "draw", "judge"]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """Sums: `fits` of adapters of combinations, `forward` and `backward` in rows of the UNet, `examples` in training pictures, priors
    included, `denoising_steps` of pictures, which guidance does not double, `scores` of pictures by further metrics."""

    fits: int = 0
    steps: int = 0
    examples: int = 0
    forward: int = 0
    backward: int = 0
    prior_pictures: int = 0
    pictures: int = 0
    denoising_steps: int = 0
    scores: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(**{name: value + getattr(other, name) for name, value in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of a fit: bytes of its adapter's numbers and of its checkpoints at most, numbers that it trains at once; of how many subjects
    it collects Grams and the bytes of one, and how many pictures it lets subjects' own fits draw."""

    adapter: int = 0
    checkpoints: int = 0
    trained: int = 0
    grams: int = 0
    gram: int = 0
    drawn: int = 0


@dataclass(frozen=True, kw_only=True)
class Task:
    """A fit, a chunk, a batch of class priors, or the further metrics of a chunk.

    kind: the name of its rate; `units` are left of it, in steps, calls of the UNet or pictures. place: the adapter's folder or the
    chunk's id. share: of a whole chunk. begun: whether a fit goes on from a checkpoint.
    """

    stage: Stage
    owner: str
    kind: str
    place: str
    whole: Counts
    left: Counts
    units: int
    done: bool
    share: float = 1.0
    begun: bool = False
    sizes: Sizes = Sizes()


@dataclass(frozen=True, kw_only=True)
class Counted:
    """A phase as tasks, which go side by side; `run_dir` has the tables of its chunks. most: class priors drawn before a run gives up."""

    name: str
    tasks: tuple[Task, ...]
    run_dir: Path
    most: int = 0


@dataclass(frozen=True, kw_only=True)
class Workload:
    """All that a run asks for. `shared`: cells of a benchmark that use another arm's adapter."""

    phases: tuple[Counted, ...]
    shared: int
    architecture: Architecture

    def tasks(self, *stages: Stage) -> list[Task]:
        """The tasks of these stages, of all if none is named."""
        return [task for phase in self.phases for task in phase.tasks if not stages or task.stage in stages]


def workload_of(run: Ready) -> Workload:
    """Everything that the run asks for, with what its folder has marked as done."""
    architecture, seen = known_architecture(run.config.models.backbone), set()
    counted = (_counted(run, phase, architecture, seen) for phase in listed(phases_of(run)))
    return Workload(phases=tuple(phase for phase in counted if phase.tasks), shared=_shared(run), architecture=architecture)


def total(tasks: Iterable[Task], *, whole: bool = True) -> Counts:
    """The sum of everything, or of what is not there yet."""
    return sum((task.whole if whole else task.left for task in tasks), Counts())


def _counted(run: Ready, phase: Phase, architecture: Architecture, seen: set) -> Counted:
    match phase:
        case Priors():
            return _class_priors(run, phase)
        case Fits():
            tasks = tuple(_fit(run, job, architecture, seen) for job in phase.jobs)
        case Draws():
            tasks = _draws(run, phase)
        case Judgements():
            tasks = _judgements(run, phase)
        case _:
            tasks = ()
    return Counted(name=phase.name, tasks=tasks, run_dir=getattr(phase, "run_dir", run.run_dir))


def _fit(run: Ready, job: FitJob, architecture: Architecture, seen: set) -> Task:
    """A job; `seen` holds what fits counted before leave beside subjects' own fits, which is made once."""
    owner = job.label.split()[0] if isinstance(run.config, BenchmarkConfig) else job.method
    method, combination = run.methods[owner], job.combination
    if job.start:
        asked = refit_work(job.retraining, described(method), combination)
    elif job.alone:
        asked = work(subject_method(method, combination), _only(combination, job.alone), alone=True)
    else:
        asked = work(method, combination)
    places = dict.fromkeys(folders_alone(job, options_of(job))) if asked.once else ()
    once = {(place, thing.name): thing for thing in asked.once for place in places if (place, thing.name) not in seen}
    seen.update(once)
    done, behind = is_fitted(job), _steps_behind(job)
    besides, left = sum(thing.forward for thing in once.values()), max(0, asked.steps - behind)
    trained, size = adapter_numbers(method, architecture, combination, job.alone)
    kept = max(0, min(CHECKPOINTS, (asked.steps - 1) // CHECKPOINT_EVERY))
    grams = sum(thing.gram for thing in once.values())
    sizes = Sizes(
        adapter=size, trained=trained, checkpoints=kept * CHECKPOINT_COPIES * FLOAT32 * trained, grams=grams,
        gram=gram_bytes(architecture.unet, method.lora_targets) if grams else 0, drawn=sum(thing.pictures for thing in once.values()),
    )  # fmt: skip
    return Task(
        stage="fit", owner=owner, kind=asked.kind, place=str(place_of(job)), whole=_of_fit(asked, besides, job),
        left=Counts() if done else _of_fit(replace(asked, steps=left), besides, job), units=left if asked.steps else 1, done=done,
        begun=behind > 0, sizes=sizes,
    )  # fmt: skip


def _of_fit(asked: Work, besides: int, job: FitJob) -> Counts:
    backward, forward = asked.backward, asked.forward + besides
    return Counts(fits=int(not job.alone), steps=asked.steps, examples=backward, forward=forward, backward=backward)


def _only(combination: Combination, key: str) -> Combination:
    return replace(combination, subjects=tuple(subject for subject in combination.subjects if subject.key == key))


def _steps_behind(job: FitJob) -> int:
    """Steps in a checkpoint of the fit; a subject's own keeps them with the combination that it is made for."""
    place = place_of(job)
    folders = (work_folder(place), work_folder(work_folder(Path(job.out_dir)) / place.name))
    return max((int(path.stem.removeprefix("step-")) for folder in folders for path in folder.glob("step-*.safetensors")), default=0)


def calls_of(sampling: Sampling) -> int:
    """Predictions for one chunk: its steps, and those that guidance by layout does again."""
    guidance = sampling.layout_guidance
    if guidance is None:
        return sampling.steps
    return sampling.steps + guidance.recurrence * min(sampling.steps, guidance.steps or sampling.steps)


def rows_of(sampling: Sampling) -> int:
    """UNet rows of one picture on one path."""
    return calls_of(sampling) * (1 if sampling.guidance == 1 else 2)


def draw_kind(batch: int, sampling: Sampling, paths: int = 1) -> str:
    """The words that decide the seconds of a call of the UNet for a chunk."""
    told = {"guided": sampling.guidance != 1, "shifted": sampling.gamma, "by layout": sampling.layout_guidance, f"paths={paths}": paths > 1}
    return " ".join([f"draw batch={batch}", *(word for word, holds in told.items() if holds)])


def _draws(run: Ready, phase: Draws) -> tuple[Task, ...]:
    batch, left = run.config.sampling.batch, {chunk.chunk_id for chunk in undrawn(phase)}
    tasks = []
    for chunk in phase.chunks:
        method, pictures = phase.settings.methods[chunk.keys[0].method], len(chunk.keys)
        sampling, paths = method.sampling, method.paths(phase.settings.combinations[chunk.combination])
        counts = Counts(
            forward=pictures * rows_of(sampling) * paths, pictures=pictures, denoising_steps=pictures * sampling.steps
        )  # fmt: skip
        tasks.append(
            Task(
                stage="draw", owner=chunk.keys[0].method, kind=draw_kind(batch, sampling, paths), place=chunk.chunk_id, whole=counts,
                left=counts if chunk.chunk_id in left else Counts(), units=calls_of(sampling) * paths, done=chunk.chunk_id not in left,
                share=pictures / batch,
            )
        )  # fmt: skip
    return tuple(tasks)


def _class_priors(run: Ready, phase: Priors) -> Counted:
    """Batches that give enough if every picture shows its class; what lies beside the runs is done, whoever drew it."""
    cluster, most, tasks = run.config.cluster.model_dump(mode="json"), 0, []
    wanted = needs_of([job for job in phase.jobs if not is_fitted(job)], cluster)
    for recipe, need in needs_of(phase.jobs, cluster).items():
        limit = most_batches(recipe, need)
        most += limit * recipe.batch
        kept = kept_by_batch(run.run_dir.parent / FOLDER / recipe.digest, limit)
        todo = next_batches(kept, wanted.get(recipe, 0), recipe.batch, limit)
        sampling = Sampling(steps=recipe.steps, guidance_scale=recipe.guidance_scale, gamma=0.0)
        counts = Counts(
            forward=recipe.batch * rows_of(sampling), prior_pictures=recipe.batch, denoising_steps=recipe.batch * recipe.steps
        )  # fmt: skip
        tasks += [
            Task(
                stage="priors", owner=PRIORS, kind=draw_kind(recipe.batch, sampling), place=f"{recipe.digest}/{index}", whole=counts,
                left=counts if index in todo else Counts(), units=calls_of(sampling), done=index not in todo,
            )
            for index in sorted({*range(-(-need // recipe.batch)), *todo})
        ]  # fmt: skip
    return Counted(name=PRIORS, tasks=tuple(tasks), run_dir=run.run_dir, most=most)


def _judgements(run: Ready, phase: Judgements) -> tuple[Task, ...]:
    lacking = unjudged(phase)
    return tuple(
        Task(
            stage="judge", owner=chunk.keys[0].method, kind=judge_name(run.config, *lacking.get(chunk.chunk_id, phase.metrics)),
            place=chunk.chunk_id, whole=Counts(scores=len(chunk.keys) * len(phase.metrics)),
            left=Counts(scores=len(chunk.keys) * len(lacking.get(chunk.chunk_id, ()))), units=len(chunk.keys),
            done=chunk.chunk_id not in lacking,
        )
        for chunk in (phase.chunks if phase.metrics else ())
    )  # fmt: skip


def _shared(run: Ready) -> int:
    if not isinstance(run.config, BenchmarkConfig):
        return 0
    cells = [(arm, c.key, fit) for arm in run.arms.values() for c in run.combinations for fit in range(run.config.fits)]
    return len(cells) - len({planning.adapter_folder(run.run_dir, run.config, run.arms, *cell) for cell in cells})
