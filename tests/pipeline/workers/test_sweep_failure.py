"""What a user reads when workers of a sweep fail: the worker's own error, not Ray's pages around it."""

from pathlib import Path

import pytest
import ray

from pipeline.settings.config import load_run
from pipeline.workers import sweep
from pipeline.workers.cluster import connected
from pipeline.workers.failure import RunFailedError

SAID = "prompt 'a hill' names no subject; write {subjects}"


def failing_stages():
    """Two that fail, one while it works and one while it is made; made here, so that workers get them by value."""

    def refuse(batch):
        raise ValueError(SAID)

    class Unmade:
        def __init__(self):
            raise ValueError(SAID)

        def __call__(self, batch):
            return batch

    return {"working": {"fn": refuse, "max_retries": 0}, "being made": {"fn": Unmade, "compute": ray.data.ActorPoolStrategy(size=1)}}


@pytest.fixture(scope="module")
def cluster():
    config = load_run(Path("jobs/configs/miniature.yaml"))
    with connected(config.cluster):
        yield config.cluster


@pytest.mark.slow
@pytest.mark.parametrize("when", failing_stages())
def test_a_worker_that_cannot_go_on_says_why(cluster, when):
    """Ray tells the two in different ways."""
    with pytest.raises(RunFailedError) as caught:
        sweep._run(lambda: ray.data.range(1).map_batches(**failing_stages()[when]), 1, cluster, lambda row: None)
    assert str(caught.value) == f"the sweep stopped: ValueError: {SAID}; what is stored stays, start the same command again to go on"
