"""What a run asks for, counted from its list of phases, and how much of it is there already.

UNet passes are counted in rows: one picture once through the network. Nothing is written and no weights are read.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from mudi.adapter_size import FLOAT32, Architecture, gram_bytes, known_architecture
from mudi.options import Sampling
from mudi.passes import calls_of, refit_work, rows_of
from mudi.prior_folder import kept_by_batch, most_batches, next_batches
from pipeline.carry_out import phases_of
from pipeline.class_priors import FOLDER, needs_of
from pipeline.cost.calibration import judge_name
from pipeline.phases import Draws, Fits, Judgements, Priors, is_fitted, listed, undrawn, unjudged
from pipeline.ready import Ready
from pipeline.settings.benchmark_config import BenchmarkConfig
from pipeline.workers.fit_job import FitJob, folders_alone, options_of, place_of, steps_behind

LEFT_OUT = "headers of files, what lies beside subjects' fits already, candidates that fail, models that load while others work"
ROWS = "UNet rows forward"
PRIORS = "class priors"  # the phase, and the owner of what no arm owns alone

# Sums by name. A plan's table: "fits" of combinations, "steps", "examples" in training pictures with priors, ROWS, "backward", "prior
# images", "images", "denoising steps", which guidance does not double. Beside it: "scores" by further metrics, "adapter bytes", "grams"
# of subjects, "gram bytes", "own images" that subjects' own fits draw, and "priors at most", at which a run gives up.
Counts = Counter[str]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A fit, a chunk, a batch of class priors, or the further metrics of a chunk.

    stage: "fit", "draw", "priors" or "judge". kind: the name of its rate; `units` of it are left: steps, calls of the UNet or pictures.
    place: the adapter's folder or the chunk's id. share: of a whole chunk. begun: from a checkpoint. trained: numbers at once.
    """

    stage: str
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
    """A phase as tasks, which go side by side; `run_dir` has the tables of its chunks."""

    name: str
    tasks: tuple[Task, ...]
    run_dir: Path


@dataclass(frozen=True, kw_only=True)
class Workload:
    """All that a run asks for."""

    phases: tuple[Counted, ...]
    architecture: Architecture

    def tasks(self, *stages: str) -> list[Task]:
        """The tasks of these stages, of all if none is named."""
        return [task for phase in self.phases for task in phase.tasks if not stages or task.stage in stages]


def workload_of(run: Ready) -> Workload:
    """Everything that the run asks for, with what its folder has marked as done."""
    architecture, seen, phases = known_architecture(run.config.models.backbone), set(), []
    for phase in listed(phases_of(run)):
        tasks: list[Task] = []
        match phase:
            case Priors():
                tasks = _class_priors(run, phase)
            case Fits():
                tasks = [_fit(run, job, architecture, seen) for job in phase.jobs]
            case Draws():
                tasks = _draws(run, phase)
            case Judgements():
                tasks = _judgements(run, phase)
        phases += [Counted(name=phase.name, tasks=tuple(tasks), run_dir=getattr(phase, "run_dir", run.run_dir))] if tasks else []
    return Workload(phases=tuple(phases), architecture=architecture)


def total(tasks: Iterable[Task], *, whole: bool = True) -> Counts:
    """The sum of everything, or of what is not there yet."""
    return sum((task.whole if whole else task.left for task in tasks), Counter())


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
    if job.start and job.retraining.noise_from:
        size += FLOAT32 * trained  # the second part
    made: Counts = Counter({"fits": not job.alone, "adapter bytes": size, ROWS: sum(thing.forward for thing in once.values())})
    made["own images"] = sum(thing.pictures for thing in once.values())
    if grams := sum(thing.gram for thing in once.values()):
        made.update({"grams": grams, "gram bytes": grams * gram_bytes(architecture.unet, method.lora_targets)})
    done, behind = is_fitted(job), steps_behind(job)
    rest = replace(work, steps=max(0, work.steps - behind))
    whole, left = (made + Counter(steps=w.steps, examples=w.backward, backward=w.backward, **{ROWS: w.forward}) for w in (work, rest))
    return Task(
        stage="fit", owner=owner, kind=work.kind, place=str(place_of(job)), whole=whole, left=Counter() if done else left,
        units=rest.steps if work.steps else 1, done=done, begun=behind > 0, trained=trained,
    )  # fmt: skip


def _drawing(images: str, pictures: int, batch: int, sampling: Sampling, paths: int, *, done: bool) -> dict:
    """How a task draws so many pictures of a `batch`; `kind` has the words that decide the seconds of a call of the UNet."""
    told = {"guided": sampling.guidance != 1, "shifted": sampling.gamma, "by layout": sampling.layout_guidance, f"paths={paths}": paths > 1}
    whole = Counter({images: pictures, ROWS: pictures * rows_of(sampling) * paths, "denoising steps": pictures * sampling.steps})
    kind = " ".join([f"draw batch={batch}", *(word for word, holds in told.items() if holds)])
    return {"kind": kind, "whole": whole, "left": Counter() if done else whole, "units": calls_of(sampling) * paths, "done": done}


def _draws(run: Ready, phase: Draws) -> list[Task]:
    batch, left, tasks = run.config.sampling.batch, {chunk.chunk_id for chunk in undrawn(phase)}, []
    for chunk in phase.chunks:
        owner, pictures = chunk.keys[0].method, len(chunk.keys)
        method = phase.settings.method_of(chunk)
        paths = method.paths(phase.settings.combinations[chunk.combination])
        drawing = _drawing("images", pictures, batch, method.sampling, paths, done=chunk.chunk_id not in left)
        tasks.append(Task(stage="draw", owner=owner, place=chunk.chunk_id, share=pictures / batch, **drawing))
    return tasks


def _class_priors(run: Ready, phase: Priors) -> list[Task]:
    """Batches that give enough if every picture shows its class; what lies beside the runs is done, whoever drew it."""
    cluster, tasks = run.config.cluster.model_dump(mode="json"), []
    wanted = needs_of([job for job in phase.jobs if not is_fitted(job)], cluster)
    for recipe, need in needs_of(phase.jobs, cluster).items():
        most = most_batches(recipe, need)
        kept = kept_by_batch(run.run_dir.parent / FOLDER / recipe.digest, most)
        todo = next_batches(kept, wanted.get(recipe, 0), recipe.batch, most)
        sampling = Sampling(steps=recipe.steps, guidance_scale=recipe.guidance_scale, gamma=0.0)
        for index in sorted({*range(-(-need // recipe.batch)), *todo}):
            drawing = _drawing("prior images", recipe.batch, recipe.batch, sampling, 1, done=index not in todo)
            tasks.append(Task(stage="priors", owner=PRIORS, place=recipe.digest, **drawing))
        tasks[-1].whole["priors at most"] = most * recipe.batch
    return tasks


def _judgements(run: Ready, phase: Judgements) -> list[Task]:
    lacking, tasks = unjudged(phase), []
    for chunk in phase.chunks if phase.metrics else ():
        metrics, pictures = lacking.get(chunk.chunk_id, ()), len(chunk.keys)
        whole, left = Counter(scores=pictures * len(phase.metrics)), Counter(scores=pictures * len(metrics))
        kind = judge_name(run.config, *(metrics or phase.metrics))
        told = {"kind": kind, "place": chunk.chunk_id, "whole": whole, "left": left, "units": pictures, "done": not metrics}
        tasks.append(Task(stage="judge", owner=chunk.keys[0].method, **told))
    return tasks
