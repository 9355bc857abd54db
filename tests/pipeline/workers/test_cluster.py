"""What can be placed on a cluster, worked out by hand, and the one line where no Ray answers."""

import socket

import pytest

from pipeline.settings.config import Cluster, Slot
from pipeline.workers.cluster import capacity, connected, require

ONE_GPU = [{"CPU": 4.0, "GPU": 1.0}]


def test_workers_are_counted_by_what_each_node_holds():
    """Of 4 CPUs and 1 GPU: two halves of the GPU, one whole, none of 8 CPUs; two nodes hold twice as many, and no worker spans both."""
    assert capacity(Slot(gpus=0.5, cpus=1), ONE_GPU) == 2
    assert capacity(Slot(gpus=1, cpus=1), ONE_GPU) == 1
    assert capacity(Slot(gpus=1, cpus=1), ONE_GPU * 2) == 2
    assert capacity(Slot(gpus=2, cpus=1), ONE_GPU * 2) == 0
    assert capacity(Slot(cpus=8), [{"CPU": 4.0}] * 2) == 0
    assert capacity(Slot(cpus=0.5), [{"CPU": 2.0}]) == 4
    assert capacity(Slot(gpus=2, cpus=1), [{"CPU": 8.0, "GPU": 5.0}]) == 2


def test_a_fraction_comes_from_one_gpu():
    """Three shares of 0.6 are 1.8 GPUs in sum, and two GPUs hold two of them."""
    assert capacity(Slot(gpus=0.6, cpus=1), [{"CPU": 8.0, "GPU": 2.0}]) == 2


def test_cpus_bound_the_workers_of_a_gpu_node():
    """Eight GPUs and six CPUs hold three workers of two CPUs."""
    assert capacity(Slot(gpus=1, cpus=2), [{"CPU": 6.0, "GPU": 8.0}]) == 3


def test_the_missing_resource_is_named():
    with pytest.raises(ValueError, match=r"cluster\.workers\.gpus = 2: no node"):
        require(Cluster(workers=Slot(gpus=2.0)), ONE_GPU)
    with pytest.raises(ValueError, match=r"cluster\.workers\.cpus = 9: no node"):
        require(Cluster(workers=Slot(cpus=9.0)), ONE_GPU)
    with pytest.raises(ValueError, match="whole numbers"):
        require(Cluster(workers=Slot(gpus=1.5)), [{"CPU": 8.0, "GPU": 4.0}])
    require(Cluster(workers=Slot(gpus=1.0, cpus=4.0)), ONE_GPU)


@pytest.mark.parametrize("scheme", ["ray", "auto"])
def test_a_port_without_a_cluster_is_told_in_one_line(scheme, monkeypatch):
    """The port was free a moment ago; nothing listens there, and Ray is not asked."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    address = f"ray://127.0.0.1:{port}" if scheme == "ray" else "auto"
    with (
        pytest.raises(ValueError, match=r"\Acluster\.address = .*: no Ray answers there .*cluster\.address=none\Z"),
        connected(Cluster(address=address)),
    ):
        pass


def test_old_pools_are_answered_with_the_new_key():
    with pytest.raises(ValueError, match=r"generate: one kind of worker does all the work; write workers: .* instead of generate, fit"):
        Cluster.model_validate({"generate": {"gpus": 1}, "fit": {"gpus": 1}})
