"""Connecting to Ray or starting it, and checking that it can hold a worker. Every fault of starting is one line with its remedy."""

import logging
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import ray
from ray.exceptions import AuthenticationError, RayError

from pipeline.settings.config import Cluster, Slot
from pipeline.workers.failure import RunFailedError

OBJECT_STORE_BYTES = 400_000_000
QUIET = {"log_to_driver": False, "logging_level": logging.ERROR}
STARTS = 3  # Ray gives a local start 30 s, which a busy machine may need more than once
ANSWER_SECONDS = 20  # for a cluster at an address to answer
WITHOUT = "or work without Ray with --set cluster.address=none"


def capacity(slot: Slot, nodes: Sequence[Mapping[str, float]]) -> int:
    """How many workers of this size fit on the nodes at once. No worker spans nodes, and a fraction of a GPU comes from one GPU."""
    found = 0
    for node in nodes:
        cpus = int(node.get("CPU", 0.0) / slot.cpus + 1e-6)
        gpus = int(node.get("GPU", 0.0))
        if slot.gpus:
            found += min(cpus, gpus * int(1 / slot.gpus + 1e-6) if slot.gpus < 1 else int(gpus / slot.gpus))
        else:
            found += cpus
    return found


def require(cluster: Cluster, nodes: Sequence[Mapping[str, float]]) -> None:
    """Raise ValueError if no node can hold a worker.

    `nodes` holds each node's total resources, such as {"CPU": 4.0, "GPU": 1.0}. An autoscaling cluster
    that starts at zero GPUs reports none until a node is up, so it needs its first GPU nodes running.
    """
    slot = cluster.workers
    if slot.gpus > 1 and slot.gpus != int(slot.gpus):
        raise ValueError(f"cluster.workers.gpus = {slot.gpus:g}: above one GPU only whole numbers can be placed")
    if capacity(slot, nodes):
        return
    key = "cpus" if capacity(Slot(gpus=0.0, cpus=slot.cpus), nodes) == 0 else "gpus"
    found = "; ".join(f"{node.get('GPU', 0):g} GPUs and {node.get('CPU', 0):g} CPUs" for node in nodes) or "none"
    raise ValueError(
        f"cluster.workers.{key} = {getattr(slot, key):g}: no node of the cluster has that (nodes: {found}); "
        f"start larger nodes, or lower it with --set cluster.workers.{key}=..."
    )


def alive_nodes() -> list[dict[str, float]]:
    """Each living node's total resources."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


@contextmanager
def connected(cluster: Cluster) -> Iterator[None]:
    """Ray for the length of a block. A Ray that was already there stays.

    Raises ValueError if no cluster answers at the address or it is too small, RunFailedError if this machine cannot start Ray.
    """
    there = ray.is_initialized()
    if not there:
        (_start if cluster.address in (None, "local") else _join)(cluster)
    try:
        require(cluster, alive_nodes())
        yield
    finally:
        if not there:
            ray.shutdown()


def _start(cluster: Cluster) -> None:
    size = {"num_cpus": cluster.cpus or os.cpu_count() or 1, "object_store_memory": OBJECT_STORE_BYTES}
    for start in range(1, STARTS + 1):
        try:
            ray.init("local", **size, include_dashboard=False, **QUIET)
            return
        # Ray's own start has no error type of its own: it raises what its parts do, and plain Exception where a process does not come up.
        except Exception as error:
            ray.shutdown()
            if start == STARTS:
                raise RunFailedError(_no_start(error)) from error


def _no_start(error: Exception) -> str:
    said = " ".join(str(error).split())[:200] or type(error).__name__
    if "AF_UNIX" in said or ("socket" in said.lower() and "length" in said.lower()):
        return f"Ray could not start: its socket's path is too long ({said}); set TMPDIR to a short path such as /tmp, {WITHOUT}"
    return f"Ray could not start on this machine after {STARTS} tries ({said}); wait until the machine is less busy, {WITHOUT}"


def _join(cluster: Cluster) -> None:
    """Join the cluster at the address, which has to answer within `ANSWER_SECONDS`."""
    address = os.environ.get("RAY_ADDRESS", "") if cluster.address == "auto" else cluster.address.removeprefix("ray://")
    _require_answer(cluster.address, address)
    try:
        ray.init(cluster.address, **QUIET)
    except AuthenticationError as error:
        raise ValueError(
            f"cluster.address = {cluster.address!r}: the cluster refuses this token ({_first_line(error)}); use the token that the head "
            "was started with (RAY_AUTH_TOKEN, or the file ~/.ray/auth_token)"
        ) from error
    except (ConnectionError, RayError, RuntimeError, TimeoutError) as error:
        raise ValueError(_nobody(cluster.address, _first_line(error))) from error


def _require_answer(named: str, address: str) -> None:
    """Raise ValueError unless something listens at host:port; Ray itself waits for minutes. An empty address is found by Ray."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_SECONDS).close()
    except OSError as error:
        raise ValueError(_nobody(named, f"{address}: {error}")) from error


def _nobody(address: str, said: str) -> str:
    return (
        f"cluster.address = {address!r}: no Ray answers there ({said}); start one with `RAY_AUTH_MODE=token ray start --head`, "
        f"use address: local, {WITHOUT}"
    )


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
