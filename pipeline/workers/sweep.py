"""One Ray Data execution a round: generate -> detect -> compare -> write, for all combinations at once."""

import json
import logging
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.data.exceptions import ExecutionTimeoutError, SystemException
from ray.util.annotations import RayDeprecationWarning

from pipeline import plan
from pipeline.settings.config import Cluster, Pool
from pipeline.workers.cluster import WRITE_CPUS
from pipeline.workers.failure import RunFailedError
from pipeline.workers.mask_stage import Mask
from pipeline.workers.masks import LABEL, MadeMask, MaskJob, MaskSettings, Progress, batches
from pipeline.workers.prior_stages import DrawPriors, KeepPriors, PriorSettings
from pipeline.workers.stages import BUSY, Compare, Detect, Generate, Judge, JudgeSettings, StageSettings, write

# A chunk whose worker process dies is tried again this often, then given up: the default is for ever,
# which a chunk that kills its worker each time turns into an endless loop of model loads.
TASK_RETRIES = 2
ACTOR_RESTARTS = 5
# How a traceback ends: the name of the error at the beginning of a line.
NAMED_ERROR = re.compile(r"[A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt)\b")

Receipt = Callable[[str, int, dict[str, float]], None]


def _pool(settings: StageSettings | JudgeSettings | MaskSettings | PriorSettings, pool: Pool) -> dict:
    return {
        "fn_constructor_kwargs": {"settings": settings, "gpus": pool.gpus, "threads": max(1, int(pool.cpus))},
        "compute": ActorPoolStrategy(min_size=1, max_size=pool.actors),
        "num_gpus": pool.gpus,
        "num_cpus": pool.cpus,
        "max_restarts": ACTOR_RESTARTS,
        "max_task_retries": TASK_RETRIES,
    }


def sweep(chunks: list[plan.Chunk], settings: StageSettings, cluster: Cluster, received: Receipt) -> None:
    """Draw, score and store every chunk; `received(chunk_id, candidates, times)` is called as each arrives, with
    the busy seconds of each stage and the clock time at which its drawing began.

    One chunk is one block, whatever Ray Data would pack together: it would put all of a small manifest
    into one block and so give one actor all the work. Chunks that fail for good are left out without
    an error up to `max_failed_share`, so the caller counts what is stored; beyond it Ray's error is
    raised. The images never pass the driver: only receipts do.
    """
    _run(
        lambda: _chain(plan.to_table(chunks), settings, cluster),
        len(chunks),
        cluster,
        lambda row: received(row["chunk_id"], row["candidates"], {key: row[key] for key in ("began", *BUSY)}),
    )


def judge(rows: pa.Table, settings: JudgeSettings, cluster: Cluster, received: Callable[[str, int], None]) -> None:
    """Score stored chunks, one a row (chunk_id, round, metrics), by metrics they lack; errors as in `sweep`."""

    def chain() -> ray.data.Dataset:
        dataset = ray.data.from_arrow([rows.slice(i, 1) for i in range(rows.num_rows)])
        return dataset.map_batches(Judge, batch_size=1, batch_format="pyarrow", **_pool(settings, cluster.judge))

    _run(chain, rows.num_rows, cluster, lambda row: received(row["chunk_id"], row["candidates"]))


def mask_all(settings: MaskSettings, jobs: Sequence[MaskJob], progress: Progress, cluster: Cluster) -> list[MadeMask]:
    """The masks of all jobs in their order, by workers of `cluster.detect`; a batch is one block, as in `sweep`.

    The photos must lie where every worker can read them. RunFailedError if a batch fails.
    """
    parts = list(batches(jobs))
    rows = [pa.table({"batch": [i], "jobs": [json.dumps([asdict(job) for job in part])]}) for i, part in enumerate(parts)]
    made: dict[int, list[MadeMask]] = {}

    def chain() -> ray.data.Dataset:
        return ray.data.from_arrow(rows).map_batches(Mask, batch_size=1, batch_format="pyarrow", **_pool(settings, cluster.detect))

    def received(row: dict) -> None:
        made[row["batch"]] = [
            MadeMask(png=png, boxes=tuple((confidence, tuple(box)) for confidence, box in said["boxes"]), doubts=tuple(said["doubts"]))
            for said, png in zip(json.loads(row["said"]), row["pngs"], strict=True)
        ]
        progress(LABEL, sum(map(len, made.values())), len(jobs))

    _run(chain, len(rows), cluster, received)
    return [mask for index in range(len(parts)) for mask in made[index]]


def draw_priors(rows: pa.Table, settings: PriorSettings, cluster: Cluster, received: Callable[[str, int, int], None]) -> None:
    """Draw, cut out and store batches of class priors, one a row (recipe, folder, batch); errors as in `sweep`."""

    def chain() -> ray.data.Dataset:
        dataset = ray.data.from_arrow([rows.slice(i, 1) for i in range(rows.num_rows)])
        for stage, pool in ((DrawPriors, cluster.generate), (KeepPriors, cluster.detect)):
            dataset = dataset.map_batches(stage, batch_size=1, batch_format="pyarrow", **_pool(settings, pool))
        return dataset

    _run(chain, rows.num_rows, cluster, lambda row: received(row["folder"], row["batch"], row["kept"]))


def _run(chain: Callable[[], ray.data.Dataset], blocks: int, cluster: Cluster, received: Callable[[dict], None]) -> None:
    """Execute a chain; `received` is called with each row that comes out."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = int(cluster.max_failed_share * blocks)
    with warnings.catch_warnings():
        # The named parameters that the warning recommends have none for restarts and retries in Ray 2.60.
        warnings.simplefilter("ignore", RayDeprecationWarning)
        dataset = chain()
    try:
        for row in dataset.iter_rows():
            received(row)
    except (ray.exceptions.RayError, ExecutionTimeoutError, SystemException) as error:
        raise RunFailedError(f"the sweep stopped: {_cause(error)}; what is stored stays, start the same command again to go on") from error


def _cause(error: Exception) -> str:
    """The innermost error in one line: Ray wraps a worker's error in pages of its own, the innermost first, advice of its own last."""
    innermost = str(error).split("The above exception was the direct cause")[0].strip().splitlines()
    named = [line for line in innermost if NAMED_ERROR.match(line)]
    return (named or innermost or [type(error).__name__])[-1].strip()


def _chain(table: pa.Table, settings: StageSettings, cluster: Cluster) -> ray.data.Dataset:
    dataset = ray.data.from_arrow([table.slice(i, 1) for i in range(table.num_rows)])
    for stage, pool in ((Generate, cluster.generate), (Detect, cluster.detect), (Compare, cluster.compare)):
        dataset = dataset.map_batches(stage, batch_size=1, batch_format="pyarrow", **_pool(settings, pool))
    dataset = dataset.map_batches(
        write, batch_size=1, batch_format="pyarrow", fn_kwargs={"run_dir": settings.run_dir}, num_cpus=WRITE_CPUS,
        max_retries=TASK_RETRIES,
    )  # fmt: skip
    return dataset
