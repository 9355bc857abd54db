"""Connecting to Ray or starting it, and checking that it can hold what a run asks for."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from pipeline.config import Cluster

OBJECT_STORE_BYTES = 400_000_000
# Map actors reserve their CPUs; a local Ray whose pools hold all of them has none left for the writers
# and hangs, so it is told of two more than the machine has. They are bookkeeping, not threads.
SPARE_CPUS = 2


def _start_options(cluster: Cluster) -> dict:
    """What `ray.init` is given: an address to join, or the size of a local Ray without dashboard."""
    if cluster.address not in (None, "local"):
        return {"address": cluster.address}
    cores = cluster.cpus or os.cpu_count() or 1
    return {
        "address": "local",
        "num_cpus": cores + SPARE_CPUS,
        "include_dashboard": False,
        "object_store_memory": OBJECT_STORE_BYTES,
    }


def require(cluster: Cluster, available: dict[str, float]) -> None:
    """Raise ValueError if a worker, or all pools of a sweep together at one actor each, cannot be placed.

    `available` are a cluster's total resources, such as {"CPU": 4.0, "GPU": 1.0}. An autoscaling cluster
    that starts at zero GPUs reports none until a node is up, so it needs one worker node running.
    """
    stages = {"generate": cluster.generate, "detect": cluster.detect, "compare": cluster.compare, "fit": cluster.fit}
    gpus, cpus = available.get("GPU", 0.0), available.get("CPU", 0.0)
    for name, slot in stages.items():
        if slot.gpus > gpus:
            raise ValueError(
                f"cluster.{name}.gpus = {slot.gpus:g}: the cluster has {gpus:g} GPUs; start GPU workers, or lower it with "
                f"--set cluster.{name}.gpus=0 to run on CPUs"
            )
        if slot.cpus > cpus:
            raise ValueError(f"cluster.{name}.cpus = {slot.cpus:g}: the cluster has {cpus:g} CPUs; lower it with --set")
    sweep = [cluster.generate, cluster.detect, cluster.compare]
    if sum(s.gpus for s in sweep) > gpus:
        raise ValueError(
            f"generate, detect and compare together need {sum(s.gpus for s in sweep):g} GPUs, the cluster has {gpus:g}; let the scorers "
            "share one, such as --set cluster.generate.gpus=0.5 --set cluster.detect.gpus=0.25 --set cluster.compare.gpus=0.25"
        )
    if sum(s.cpus for s in sweep) >= cpus:
        raise ValueError(
            f"generate, detect and compare together reserve {sum(s.cpus for s in sweep):g} of {cpus:g} CPUs and leave none "
            "to write results; lower cluster.detect.cpus or cluster.compare.cpus"
        )


@contextmanager
def connected(cluster: Cluster) -> Iterator[dict[str, float]]:
    """Ray for the length of a block; yields its total resources. A Ray that was already there stays.

    Raises ValueError if no cluster answers at the address or it is too small.
    """
    if ray.is_initialized():
        require(cluster, ray.cluster_resources())
        yield ray.cluster_resources()
        return
    try:
        ray.init(**_start_options(cluster), log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        raise ValueError(
            f"cluster.address = {cluster.address!r}: no Ray answers there ({str(error).splitlines()[0]}); "
            "start one with `ray start --head`, or use address: local"
        ) from error
    try:
        require(cluster, ray.cluster_resources())
        yield ray.cluster_resources()
    finally:
        ray.shutdown()
