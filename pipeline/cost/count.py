"""What a run asks for, counted from its list of phases, and how much of it is there already.

UNet passes are counted in rows: one picture once through the network. Guidance doubles them, DCO and the KL term add a pass without
gradients to each training row, a refit measures its drift at the end. Nothing is written and no weights are read.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mudi.adapter_folder import work_folder
from mudi.adapter_size import Architecture, gram_bytes, known_architecture
from mudi.options import Sampling
from mudi.passes import Work, calls_of, refit_work, rows_of
from mudi.prior_folder import kept_by_batch, most_batches, next_batches
from pipeline import arms as planning
from pipeline.carry_out import phases_of
from pipeline.class_priors import FOLDER, needs_of
from pipeline.cost.calibration import judge_name
from pipeline.phases import Draws, Fits, Judgements, Phase, Priors, is_fitted, listed, undrawn, unjudged
from pipeline.ready import Ready
from pipeline.settings.benchmark_config import BenchmarkConfig
from pipeline.workers.fit_job import FitJob, folders_alone, options_of, place_of

LEFT_OUT = (
    "headers and manifests of files, what earlier runs drew or collected beside subjects' fits, candidates that fail, and models that "
    "a worker loads while others work"
)
PRIORS = "class priors"  # the phase, and the owner of what no arm owns alone

# Sums by name. Of a plan's table: "fits" of adapters of combinations, "steps", "examples" in training pictures with priors, "forward" and
# "backward" in rows of the UNet, "prior images", "images", "denoising steps", which guidance does not double. Beside it: "scores" of
# pictures by further metrics, "adapter bytes", "grams" of subjects and "gram bytes", "own images" that subjects' own fits draw.
Counts = Counter[str]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A fit, a chunk, a batch of class priors, or the further metrics of a chunk.

    kind: the name of its rate; `units` are left of it, in steps, calls of the UNet or pictures. place: the adapter's folder or the
    chunk's id. share: of a whole chunk. begun: whether a fit goes on from a checkpoint. trained: numbers at once.
    """

    stage: Literal["priors", "fit", "draw", "judge"]
    owner: str
    kind: str
    place: str
    whole: Counts
    left: Counts
    units: int
    done: bool
    share: float = 1.0
    begun: bool = False
    trained: int = 0


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

    def tasks(self, *stages: str) -> list[Task]:
        """The tasks of these stages, of all if none is named."""
        return [task for phase in self.phases for task in phase.tasks if not stages or task.stage in stages]


def workload_of(run: Ready) -> Workload:
    """Everything that the run asks for, with what its folder has marked as done."""
    architecture, seen = known_architecture(run.config.models.backbone), set()
    counted = (_counted(run, phase, architecture, seen) for phase in listed(phases_of(run)))
    return Workload(phases=tuple(phase for phase in counted if phase.tasks), shared=_shared(run), architecture=architecture)


def total(tasks: Iterable[Task], *, whole: bool = True) -> Counts:
    """The sum of everything, or of what is not there yet."""
    counts: Counts = Counter()
    for task in tasks:
        counts.update(task.whole if whole else task.left)
    return counts


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
    method, combination, alone = run.methods[owner], job.combination, 0
    if job.alone:
        method, alone = method.subject_method(combination), None
        combination = replace(combination, subjects=tuple(subject for subject in combination.subjects if subject.key == job.alone))
    work = refit_work(job.retraining, method.described(), combination) if job.start else method.work(combination)
    places = dict.fromkeys(folders_alone(job, options_of(job))) if work.once else ()
    once = {(place, thing.name): thing for thing in work.once for place in places if (place, thing.name) not in seen}
    seen.update(once)
    trained, size = method.adapter_numbers(architecture, combination, alone)
    made: Counts = Counter({"fits": not job.alone, "adapter bytes": size, "forward": sum(thing.forward for thing in once.values())})
    made["own images"] = sum(thing.pictures for thing in once.values())
    if grams := sum(thing.gram for thing in once.values()):
        made.update({"grams": grams, "gram bytes": grams * gram_bytes(architecture.unet, method.lora_targets)})
    done, behind = is_fitted(job), _steps_behind(job)
    left = max(0, work.steps - behind)
    return Task(
        stage="fit", owner=owner, kind=work.kind, place=str(place_of(job)), whole=made + _trained(work), done=done, begun=behind > 0,
        left=Counter() if done else made + _trained(replace(work, steps=left)), units=left if work.steps else 1, trained=trained,
    )  # fmt: skip


def _trained(work: Work) -> Counts:
    return Counter(steps=work.steps, examples=work.backward, backward=work.backward, forward=work.forward)


def _steps_behind(job: FitJob) -> int:
    """Steps in a checkpoint of the fit; a subject's own keeps them with the combination that it is made for."""
    place = place_of(job)
    folders = (work_folder(place), work_folder(work_folder(Path(job.out_dir)) / place.name))
    return max((int(path.stem.removeprefix("step-")) for folder in folders for path in folder.glob("step-*.safetensors")), default=0)


def _drawing(images: str, pictures: int, batch: int, sampling: Sampling, paths: int, *, done: bool) -> dict:
    """How a task draws so many pictures of a `batch`; `kind` has the words that decide the seconds of a call of the UNet."""
    told = {"guided": sampling.guidance != 1, "shifted": sampling.gamma, "by layout": sampling.layout_guidance, f"paths={paths}": paths > 1}
    whole = Counter({images: pictures, "forward": pictures * rows_of(sampling) * paths, "denoising steps": pictures * sampling.steps})
    kind = " ".join([f"draw batch={batch}", *(word for word, holds in told.items() if holds)])
    return {"kind": kind, "whole": whole, "left": Counter() if done else whole, "units": calls_of(sampling) * paths, "done": done}


def _draws(run: Ready, phase: Draws) -> tuple[Task, ...]:
    batch, left, tasks = run.config.sampling.batch, {chunk.chunk_id for chunk in undrawn(phase)}, []
    for chunk in phase.chunks:
        owner, pictures = chunk.keys[0].method, len(chunk.keys)
        method = phase.settings.methods[owner]
        paths = method.paths(phase.settings.combinations[chunk.combination])
        drawing = _drawing("images", pictures, batch, method.sampling, paths, done=chunk.chunk_id not in left)
        tasks.append(Task(stage="draw", owner=owner, place=chunk.chunk_id, share=pictures / batch, **drawing))
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
        for index in sorted({*range(-(-need // recipe.batch)), *todo}):
            drawing = _drawing("prior images", recipe.batch, recipe.batch, sampling, 1, done=index not in todo)
            tasks.append(Task(stage="priors", owner=PRIORS, place=recipe.digest, **drawing))
    return Counted(name=PRIORS, tasks=tuple(tasks), run_dir=run.run_dir, most=most)


def _judgements(run: Ready, phase: Judgements) -> tuple[Task, ...]:
    lacking, tasks = unjudged(phase), []
    for chunk in phase.chunks if phase.metrics else ():
        metrics = lacking.get(chunk.chunk_id, ())
        counts = [Counter(scores=len(chunk.keys) * len(names)) for names in (phase.metrics, metrics)]
        kind = judge_name(run.config, *(metrics or phase.metrics))
        told = {"owner": chunk.keys[0].method, "place": chunk.chunk_id, "units": len(chunk.keys), "done": not metrics}
        tasks.append(Task(stage="judge", kind=kind, whole=counts[0], left=+counts[1], **told))
    return tuple(tasks)


def _shared(run: Ready) -> int:
    if not isinstance(run.config, BenchmarkConfig):
        return 0
    cells = [(arm, c.key, fit) for arm in run.arms.values() for c in run.combinations for fit in range(run.config.fits)]
    return len(cells) - len({planning.adapter_folder(run.run_dir, run.config, run.arms, *cell) for cell in cells})
