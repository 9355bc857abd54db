"""One Ray Data execution a round: generate -> detect -> compare -> write, for all combinations at once."""

from collections.abc import Callable

import ray
from ray.data import ActorPoolStrategy, DataContext

from pipeline import plan
from pipeline.config import Cluster, Pool
from pipeline.stages import Compare, Detect, Generate, StageSettings, Write

# A chunk whose worker process dies is tried again this often, then given up: the default is for ever,
# which a chunk that kills its worker each time turns into an endless loop of model loads.
TASK_RETRIES = 2
ACTOR_RESTARTS = 5
WRITE_CPUS = 0.25

Receipt = Callable[[str, int, float], None]


def _pool(stage: type, settings: StageSettings, pool: Pool) -> dict:
    return {
        "fn_constructor_kwargs": {"settings": settings, "gpus": pool.gpus, "threads": max(1, int(pool.cpus))},
        "compute": ActorPoolStrategy(min_size=1, max_size=pool.actors),
        "num_gpus": pool.gpus,
        "num_cpus": pool.cpus,
        "max_restarts": ACTOR_RESTARTS,
        "max_task_retries": TASK_RETRIES,
    }


def sweep(chunks: list[plan.Chunk], settings: StageSettings, cluster: Cluster, received: Receipt) -> None:
    """Draw, score and store every chunk; `received(chunk_id, candidates, seconds)` is called as each arrives.

    One chunk is one block, whatever Ray Data would pack together: it would put all of a small manifest
    into one block and so give one actor all the work. Chunks that fail for good are left out without
    an error up to `max_failed_share`, so the caller counts what is stored; beyond it Ray's error is
    raised. The images never pass the driver: only receipts do.
    """
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.max_errored_blocks = max(1, int(cluster.max_failed_share * len(chunks)))
    table = plan.to_table(chunks)
    dataset = ray.data.from_arrow([table.slice(i, 1) for i in range(table.num_rows)])
    for stage, pool in ((Generate, cluster.generate), (Detect, cluster.detect), (Compare, cluster.compare)):
        dataset = dataset.map_batches(stage, batch_size=1, batch_format="pyarrow", **_pool(stage, settings, pool))
    dataset = dataset.map_batches(
        Write, batch_size=1, batch_format="pyarrow", fn_constructor_kwargs={"settings": settings},
        compute=ActorPoolStrategy(min_size=1, max_size=2), num_cpus=WRITE_CPUS, max_restarts=ACTOR_RESTARTS, max_task_retries=TASK_RETRIES,
    )  # fmt: skip
    for row in dataset.iter_rows():
        received(row["chunk_id"], row["candidates"], row["seconds"])
