"""From a run file and its folder to the work: the jobs and chunks that the run itself would make, none of them started."""

import json
import re
from collections.abc import Sequence
from pathlib import Path

from mudi.adapter_folder import MANIFEST, read_manifest
from mudi.dataset import load_combination
from mudi.options import Sampling
from mudi.prior_folder import kept_by_batch, most_batches, next_batches
from mudi.records import Adapter, Combination, Subject
from mudi.text import prompts
from mudi.user_files.requirements import check_levels
from pipeline import arms as planning
from pipeline import assignments
from pipeline.class_priors import FOLDER, needs_of
from pipeline.cost.workload import PRIORS, DrawWork, JudgeWork, Phase, Workload, draw_works, fit_work, without_work
from pipeline.settings.benchmark_config import DRAWN_WITH, BenchmarkConfig
from pipeline.settings.config import RunConfig
from pipeline.settings.prompt_file import evaluation_prompts, templates_of
from pipeline.tables import journal
from pipeline.tables.read import CHUNK_FILES, BrokenFileError, added_scores, paths, read_file
from pipeline.tables.run_folder import refuse_another_run, run_folder
from pipeline.workers.fit_job import FitJob, options_of


def workload_of(config: RunConfig | BenchmarkConfig) -> Workload:
    """Everything that the run file asks for, with what its run folder has marked as done.

    A combination folder that is not here is counted as the subjects that its prompts name, or two, without photos, and said
    in `assumed`. ValueError if the run folder holds a run with other settings, which a start would refuse to go on with.
    """
    absent = [folder for folder in config.combinations if not folder.is_dir()]
    combinations = [
        _placeholder(config, folder.name) if folder in absent else load_combination(folder, config.queries.get(folder.name))
        for folder in config.combinations
    ]
    run_dir = run_folder(config.runs, config.name)
    if isinstance(config, RunConfig):
        refuse_another_run(config, run_dir)
    count = f"{len(absent)} of {len(config.combinations)} combination folders"
    counted = "counted as the subjects that their prompts name, or two, without photos"
    notes = (f"{count} are not here (first {absent[0]}): {counted}",) if absent else ()
    build = _of_benchmark if isinstance(config, BenchmarkConfig) else _of_selftraining
    phases, shared = build(config, combinations, run_dir)
    return Workload(name=config.name, phases=tuple(phases), shared=shared, assumed=notes)


def refuse(config: RunConfig | BenchmarkConfig) -> None:
    """Raise ValueError for what a start of the run would refuse, as far as that can be known without weights: what the
    combinations that are here, or the backbone if it is, lack. A run has asked all this before it plans itself."""
    here = [load_combination(folder, config.queries.get(folder.name)) for folder in config.combinations if folder.is_dir()]
    if isinstance(config, BenchmarkConfig):
        arms = planning.resolve(config)
        check_levels(config, planning.samplings_of(arms))
        for combination in here:
            planning.with_prompts(config, arms, combination)
        return
    assignments.check_queries(config)
    check_levels(config, {"sampling": assignments.sampling_of(config)})
    for combination in here:
        assignments.with_prompts(config, combination)


def _placeholder(config: RunConfig | BenchmarkConfig, name: str) -> Combination:
    """Stands for photos that are not here yet: the subjects that its prompts name by key, of classes that no other has, or a
    pair, as most published combinations are."""
    templates = evaluation_prompts(config, name) if isinstance(config, BenchmarkConfig) else templates_of(config, name)
    named = dict.fromkeys(key for template in templates for key in re.findall(r"\{([^{}]*)\}", template) if key != "subjects")
    keys = list(named) if len(named) > 1 else ["a", "b"]
    subjects = [
        Subject(key=key, identifier=f"word{i}", class_noun=f"{name} {key}", detection_query="subject", references=())
        for i, key in enumerate(keys)
    ]
    return Combination(key=name, subjects=tuple(subjects))


def _class_priors(config: RunConfig | BenchmarkConfig, jobs: Sequence[FitJob], run_dir: Path) -> list[Phase]:
    """The phase before the fits, if one of them wants class priors: what lies beside the runs is done, whoever drew it."""
    unfinished = needs_of([job for job in jobs if not (Path(job.out_dir) / MANIFEST).is_file()], config.cluster)
    draws, most = [], 0
    for recipe, need in needs_of(jobs, config.cluster).items():
        limit = most_batches(recipe, need)
        most += limit * recipe.batch
        kept = kept_by_batch(run_dir.parent / FOLDER / recipe.digest, limit)
        todo = next_batches(kept, unfinished.get(recipe, 0), recipe.batch, limit)
        sampling = Sampling(steps=recipe.steps, guidance_scale=recipe.guidance_scale, gamma=0.0)
        draws += [
            DrawWork(
                owner=PRIORS, chunk_id=f"{recipe.digest}-{index}", pictures=recipe.batch, batch=recipe.batch, sampling=sampling,
                prompt=recipe.text, combination="", done=index not in todo,
            )
            for index in sorted({*range(-(-need // recipe.batch)), *todo})
        ]  # fmt: skip
    return [Phase(name=PRIORS, priors=tuple(draws), most_priors=most)] if draws else []


def _of_selftraining(config: RunConfig, combinations: Sequence[Combination], run_dir: Path) -> tuple[list[Phase], int]:
    named = [assignments.named_prompts(config, c, templates_of(config, c.key)) for c in combinations]
    samplings = {config.method.name: assignments.sampling_of(config)}
    nothing = _kept_nothing(run_dir)
    jobs = assignments.first_fits(config, run_dir, named)
    options = options_of(jobs[0])
    phases = _class_priors(config, jobs, run_dir)
    alone: set[Path] = set()
    phases.append(Phase(name="fit", fits=tuple(fit_work(job, job.method, options, alone) for job in jobs)))
    adapters = [_stored_or_planned(Path(job.out_dir), config.method.name, job.combination.key, 0) for job in jobs]
    paths = {(config.method.name, combination.key): options.paths(combination) for combination in named}
    for round in range(config.rounds + 1):
        chunks = assignments.plan_round(config, named, adapters, round)
        stored = _stored_ids(run_dir, round)
        sweep = Phase(name=f"round {round} sweep", draws=draw_works(chunks, samplings, config.sampling.batch, stored, paths=paths))
        phases.append(without_work(sweep) if journal.read_marker(run_dir, round, "publish") is not None else sweep)
        if round == config.rounds:
            return phases, 0
        kept = {c.key: () if (round, c.key) in nothing else (("id", "prompt"),) * config.keep for c in named}
        jobs = assignments.refits(config, run_dir, named, adapters, kept, round)
        phases.append(Phase(name=f"round {round} refit", fits=tuple(fit_work(job, job.method, options) for job in jobs)))
        made = {j.combination.key: _stored_or_planned(Path(j.out_dir), config.method.name, j.combination.key, round + 1) for j in jobs}
        adapters = [made.get(adapter.combination, adapter) for adapter in adapters]
    return phases, 0


def _of_benchmark(config: BenchmarkConfig, combinations: Sequence[Combination], run_dir: Path) -> tuple[list[Phase], int]:
    arms = planning.resolve(config)
    named = [prompts.fill_prompts(c, evaluation_prompts(config, c.key)) for c in combinations]
    samplings = {label: arm.options.sampling for label, arm in arms.items()}
    paths = {(label, combination.key): arm.options.paths(combination) for label, arm in arms.items() for combination in named}
    cells = [(arm, c.key, fit) for arm in arms.values() for c in named for fit in range(config.fits)]
    folders = {(a.label, key, fit): planning.adapter_folder(run_dir, config, arms, a, key, fit) for a, key, fit in cells}
    owners: dict[str, str] = {}
    for (label, _, _), folder in folders.items():
        owners.setdefault(str(folder), label)
    adapters = {cell: _stored_or_planned(folder, cell[0], cell[1], 0) for cell, folder in folders.items()}
    first = planning.first_fits(config, run_dir, arms, named)
    # A refit's own folder has its arm for an owner; the fit that it starts from may be no arm's pictures, and is its `of`'s.
    options = {job.out_dir: options_of(job) for job in first}
    phases = _class_priors(config, first, run_dir)
    alone: set[Path] = set()
    works = tuple(fit_work(j, owners.get(j.out_dir, j.label.split()[0]), options[j.out_dir], alone) for j in first)
    phases.append(Phase(name="fit", fits=works))
    refitted = [arm for arm in arms.values() if arm.refit]
    if refitted:
        pool, nothing = planning.pool_dir(run_dir), _kept_nothing(run_dir)
        chunks = planning.pool_chunks(config, arms, named, adapters)
        stored = _stored_ids(pool, 0)
        phases.append(Phase(name="pool", draws=draw_works(chunks, samplings, config.sampling.batch, stored, paths=paths)))
        kept = {(a.label, k, f): () if (a.label, k, f) in nothing else (("id", "prompt"),) * a.refit.keep for a, k, f in cells if a.refit}
        jobs = planning.refits(config, run_dir, arms, named, adapters, kept)
        phases.append(Phase(name="refit", fits=tuple(fit_work(j, owners[j.out_dir], arms[owners[j.out_dir]].options) for j in jobs)))
        adapters = {cell: adapter for cell, adapter in adapters.items() if kept.get(cell, True)}
    chunks = planning.evaluation_chunks(config, arms, named, adapters)
    draws = draw_works(chunks, samplings, config.sampling.batch, _stored_ids(run_dir, 0), paths=paths)
    phases.append(Phase(name="pictures", draws=draws))
    phases.append(Phase(name="metrics", judged=_judged(config, run_dir, draws)))
    return phases, len(cells) - len(owners)


def _judged(config: BenchmarkConfig, run_dir: Path, draws: Sequence[DrawWork]) -> tuple[JudgeWork, ...]:
    stored = {chunk.stem: {path.stem.partition(".")[2] for path in added} for chunk, added in added_scores(run_dir, 0).items()}
    works = []
    for metric in dict.fromkeys(name for name in config.metrics if name != DRAWN_WITH):
        done = [draw.done and metric in stored.get(draw.chunk_id, ()) for draw in draws]
        for state in (True, False):
            pictures = sum(draw.pictures for draw, is_done in zip(draws, done) if is_done is state)
            works += [JudgeWork(metric=metric, pictures=pictures, done=state)] if pictures else []
    return tuple(works)


def _stored_or_planned(folder: Path, method: str, combination: str, round: int) -> Adapter:
    """The adapter in `folder`, or one that stands for it until it is fitted, of a sha256 that no file has."""
    sha256 = read_manifest(folder)["sha256"] if (folder / MANIFEST).is_file() else f"planned {folder}"
    return Adapter(method=method, combination=combination, round=round, path=folder, sha256=sha256)


def _stored_ids(run_dir: Path, round: int) -> set[str]:
    """The ids of a round's stored candidates. A chunk that lacks a file or whose rows are broken counts as absent, and stays."""
    found: set[str] = set()
    for path in paths(run_dir, "candidates", round):
        if not all((run_dir / dataset / path).is_file() for dataset in CHUNK_FILES):
            continue
        try:
            found.update(read_file(run_dir / "candidates" / path, ["candidate_id"])["candidate_id"].to_pylist())
        except BrokenFileError:
            continue
    return found


def _kept_nothing(run_dir: Path) -> set[tuple]:
    """(round, combination) of self-training and (arm, combination, fit) of a benchmark that had nothing to train a refit on."""
    log = run_dir / "events.jsonl"
    events = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()] if log.is_file() else []
    mine = [event for event in events if event["event"] == "nothing kept"]
    return {tuple(event["cell"]) if "cell" in event else (event["round"], event["combination"]) for event in mine}
