"""Connecting to Ray or starting it, and checking that it can hold what a run asks for."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.exceptions import AuthenticationError

from pipeline.settings.config import SPARE_CPUS, Cluster, Slot

OBJECT_STORE_BYTES = 400_000_000
WRITE_CPUS = 0.25


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


def placeable(slots: list[Slot], nodes: list[dict[str, float]]) -> bool:
    """Whether one worker of each slot fits on the nodes at once, the largest placed first.

    A worker cannot span nodes, a fraction of a GPU must come from one GPU, and 2.5 GPUs do not exist.
    """
    free_cpus = [node.get("CPU", 0.0) for node in nodes]
    free_gpus = [[1.0] * int(node.get("GPU", 0)) for node in nodes]
    for slot in sorted(slots, key=lambda s: (s.gpus, s.cpus), reverse=True):
        for n, gpus in enumerate(free_gpus):
            share, count = (slot.gpus, 1) if slot.gpus < 1 else (1.0, round(slot.gpus))
            fitting = [i for i, free in enumerate(gpus) if free >= share - 1e-6][:count] if slot.gpus else []
            if free_cpus[n] >= slot.cpus and (not slot.gpus or len(fitting) == count):
                free_cpus[n] -= slot.cpus
                for i in fitting:
                    gpus[i] -= share
                break
        else:
            return False
    return True


def require(cluster: Cluster, nodes: list[dict[str, float]]) -> None:
    """Raise ValueError if a worker, or all pools of a sweep together at one actor each, cannot be placed.

    `nodes` holds each node's total resources, such as {"CPU": 4.0, "GPU": 1.0}. An autoscaling cluster
    that starts at zero GPUs reports none until a node is up, so it needs its first GPU nodes running.
    """
    stages = {
        "generate": cluster.generate,
        "detect": cluster.detect,
        "compare": cluster.compare,
        "judge": cluster.judge,
        "fit": cluster.fit,
    }
    found = "; ".join(f"{node.get('GPU', 0):g} GPUs and {node.get('CPU', 0):g} CPUs" for node in nodes) or "none"
    for name, slot in stages.items():
        if slot.gpus > 1 and slot.gpus != int(slot.gpus):
            raise ValueError(f"cluster.{name}.gpus = {slot.gpus:g}: above one GPU only whole numbers can be placed")
        if not placeable([slot], nodes):
            key = "gpus" if not placeable([Slot(gpus=slot.gpus, cpus=0.0)], nodes) else "cpus"
            raise ValueError(
                f"cluster.{name}.{key} = {getattr(slot, key):g}: no node of the cluster has that (nodes: {found}); "
                f"start larger workers, or lower it with --set cluster.{name}.{key}=..."
            )
    sweep = [cluster.generate, cluster.detect, cluster.compare, Slot(gpus=0.0, cpus=WRITE_CPUS)]
    if not placeable(sweep, nodes):
        raise ValueError(
            f"generate, detect and compare do not fit on the cluster together (nodes: {found}), and {WRITE_CPUS:g} CPU must be left to "
            "write; let the scorers share a GPU, such as --set cluster.detect.gpus=0.5 --set cluster.compare.gpus=0.5"
        )


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@contextmanager
def connected(cluster: Cluster) -> Iterator[dict[str, float]]:
    """Ray for the length of a block; yields its total resources. A Ray that was already there stays.

    Raises ValueError if no cluster answers at the address or it is too small.
    """
    if ray.is_initialized():
        require(cluster, _nodes())
        yield ray.cluster_resources()
        return
    try:
        ray.init(**_start_options(cluster), log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, AuthenticationError) as error:
        raise ValueError(
            f"cluster.address = {cluster.address!r}: no Ray answers there ({str(error).splitlines()[0]}); "
            "start one with `RAY_AUTH_MODE=token ray start --head`, or use address: local"
        ) from error
    try:
        require(cluster, _nodes())
        yield ray.cluster_resources()
    finally:
        ray.shutdown()
