"""What can be placed on a cluster, worked out by hand."""

import pytest

from pipeline.settings.config import Cluster, Pool, Slot
from pipeline.workers.cluster import placeable, require

ONE_GPU = [{"CPU": 4.0, "GPU": 1.0}]


def slots(*pairs):
    return [Slot(gpus=float(gpus), cpus=float(cpus)) for gpus, cpus in pairs]


def test_fractions_share_one_gpu_until_it_is_full():
    """0.5 + 0.25 + 0.25 = 1 fits on one GPU; a further 0.1 does not."""
    assert placeable(slots((0.5, 1), (0.25, 1), (0.25, 1)), ONE_GPU)
    assert not placeable(slots((0.5, 1), (0.25, 1), (0.25, 1), (0.1, 0)), ONE_GPU)


def test_a_fraction_comes_from_one_gpu():
    """0.7 + 0.7 + 0.6 = 2 in sum, but three shares above a half cannot sit on two GPUs."""
    assert not placeable(slots((0.7, 0), (0.7, 0), (0.6, 0)), [{"CPU": 8.0, "GPU": 2.0}])


def test_a_worker_cannot_span_nodes():
    """Two GPUs on two nodes are not two GPUs on one."""
    assert not placeable(slots((2, 0)), ONE_GPU * 2)
    assert placeable(slots((2, 0)), [{"CPU": 4.0, "GPU": 2.0}])
    assert not placeable(slots((0, 8)), [{"CPU": 4.0}] * 2)


def test_a_sweep_must_leave_a_core_share_to_write():
    """1 + 0.5 + 0.5 of 2 CPUs leaves nothing for the writer's 0.25; of 2.25 it does."""
    cluster = Cluster(generate=Pool(cpus=1.0), detect=Pool(cpus=0.5), compare=Pool(cpus=0.5))
    with pytest.raises(ValueError, match="do not fit on the cluster together"):
        require(cluster, [{"CPU": 2.0}])
    require(cluster, [{"CPU": 2.25}])


def test_the_missing_resource_is_named():
    with pytest.raises(ValueError, match=r"cluster\.fit\.gpus = 2: no node"):
        require(Cluster(fit=Slot(gpus=2.0)), ONE_GPU)
    with pytest.raises(ValueError, match=r"cluster\.fit\.cpus = 9: no node"):
        require(Cluster(fit=Slot(cpus=9.0)), ONE_GPU)
    with pytest.raises(ValueError, match="whole numbers"):
        require(Cluster(fit=Slot(gpus=1.5)), [{"CPU": 8.0, "GPU": 4.0}])
