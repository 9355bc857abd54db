"""What tests share: the miniature, a rendered combination, and where the published photos may lie."""

import os
from pathlib import Path

import pytest
import torch

# Read when Ray is imported: no authentication for a cluster that lives for one test session.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

ROOT = Path(__file__).parent.parent
DOGS = ROOT / "jobs" / "configs" / "miniature" / "two_dogs"


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
    from pipeline.plan import fill_prompts

    return fill_prompts(load_combination(DOGS), ["a photo of {subjects} on the grass"], ["a photo of {subjects} at night"])


@pytest.fixture
def miniature():
    """The trained miniature, fresh for every test because tests put adapters on it."""
    from mudi import models

    return models.load("miniature")


def pytest_collection_modifyitems(items):
    """The longest files first: of two processes one would otherwise run them alone in the end."""
    longest = ("test_ray_run", "test_sdxl", "test_ray_benchmark")
    items.sort(key=lambda item: longest.index(item.path.stem) if item.path.stem in longest else len(longest))
