"""What tests share: the miniature, a rendered combination, and where the published photos may lie."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from places import DOGS

# Read when Ray is imported: no authentication for a cluster that lives for one test session.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Equal bits wherever a test runs, and no fight for cores between parallel ones.

    Per module, not per test: a module's own fixtures are made before anything that belongs to one test.
    """
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def two_dogs():
    """Two rendered dogs with one ordinary and one watched prompt."""
    from mudi.dataset import load_combination
    from mudi.text.prompts import fill_prompts

    return fill_prompts(load_combination(DOGS), ["a photo of {subjects} on the grass"], ["a photo of {subjects} at night"])


@pytest.fixture
def miniature():
    """The trained miniature, fresh for every test because tests put adapters on it."""
    from mudi import models

    return models.load("miniature")


@pytest.fixture(scope="module")
def judges():
    from mudi import models

    return models.load_detector("miniature"), models.load_segmenter("miniature")


@pytest.fixture
def masker(judges):
    """The plain loop with models that are loaded once; `asked` collects the photos it was asked for, by name."""
    from prepared_photos import SETTINGS

    from pipeline.workers.masks import batches, make_masks

    def mask(jobs, progress):
        mask.asked = [Path(job.photo).name for job in jobs]
        return [made for batch in batches(jobs) for made in make_masks(*judges, batch, SETTINGS.threshold)]

    mask.asked = []
    return mask


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """A rendered cat and dog with their true masks, five photos each: a source folder of each, and another without masks."""
    from mudi.miniature.references import write_combination
    from mudi.miniature.world import parse_identity

    work = tmp_path_factory.mktemp("rendered")
    write_combination(work / "pair", [parse_identity("cat yellow green scarf black"), parse_identity("dog pink red hat purple")], 207)
    for key, name in (("a", "cat"), ("b", "dog")):
        (work / name).mkdir()
        (work / f"{name}_bare").mkdir()
        for path in sorted((work / "pair").glob(f"*{key}0*.png")):
            shutil.copy(path, work / name)
            if not path.name.startswith("mask_"):
                shutil.copy(path, work / f"{name}_bare")
    return work


@pytest.fixture(scope="module")
def loaded():
    """The trained miniature, loaded once for a file's tests."""
    from mudi import models

    return models.load("miniature")


@pytest.fixture(scope="module")
def loaded_in_double():
    from mudi import models

    return models.load("miniature", dtype=torch.float64)


@pytest.fixture
def double(loaded_in_double):
    """The miniature in float64 with nothing on it, for tests that compute one thing in two ways (`tests/fixtures/double.py`).

    What is put on it stays float32, and so do `predict`'s answers and the state of the denoising loop.
    """
    from mudi import adapters

    adapters.detach(loaded_in_double)
    return loaded_in_double


@pytest.fixture
def backbone(loaded):
    """The miniature with nothing on it, for tests that themselves hold that this is all there is to undo."""
    from mudi import adapters

    adapters.detach(loaded)
    return loaded


def pytest_collection_modifyitems(config, items):
    """Where slow tests run too, their files come first, the longest at the head: of two processes one would otherwise run
    them alone in the end. Without them every file reports within seconds, in whatever order."""
    if config.option.markexpr:
        return
    longest = ("test_ray_run", "test_sdxl", "test_ray_benchmark", "test_benchmark", "test_forecast", "test_methods")
    slow = {item.path for item in items if item.get_closest_marker("slow")}

    def place(item):
        stem = item.path.stem
        return longest.index(stem) if stem in longest else len(longest) + (item.path not in slow)

    items.sort(key=place)
