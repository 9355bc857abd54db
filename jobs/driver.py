"""Where a driver finds its cluster: the one that `ray job submit` started it on, or what its file says."""

import os
from pathlib import Path


def on_the_cluster_of_this_job(config):
    """The config with `cluster.address: auto` where Ray says through RAY_ADDRESS that there is a cluster to join."""
    address = os.environ.get("RAY_ADDRESS", "")
    if config.cluster.address is not None or not address:
        return config
    if address.startswith("http"):
        raise ValueError(f"RAY_ADDRESS = {address}: an address for `ray job submit`, not for a driver; unset it, or submit this as a job")
    if any(part.startswith("_ray_pkg_") for part in Path(os.path.abspath(config.runs)).parts):
        raise ValueError(
            f"runs = {config.runs!r} lies in the job's own copy of the code, which Ray deletes; give a folder that all nodes share, "
            "such as --set runs=/shared/runs"
        )
    return config.model_copy(update={"cluster": config.cluster.model_copy(update={"address": "auto"})})
