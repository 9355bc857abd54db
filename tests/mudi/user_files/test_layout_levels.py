"""Attention that the backbone does not have is refused with the file's own words, before anything is loaded."""

import sys

import pytest
from places import ROOT

from jobs import entry
from jobs.selftrain import selftrain
from mudi import models
from mudi.options import LayoutGuidance, Sampling
from mudi.user_files.requirements import check_levels
from pipeline.workers import cluster


@pytest.mark.parametrize(("backbone", "levels", "refused"), [
    ("miniature", "all", False), ("miniature", "v1", True), ("miniature", (1,), True), ("miniature", (2,), False),
    ("miniature-sd", "v1", False), ("miniature-sd", (4,), True),
    ("random-sdxl", "v1", False), ("random-sdxl", (2, 4), False), ("random-sd15", (1, 2, 4, 8), False), ("random-sd21", (16,), True),
])  # fmt: skip
def test_the_levels_of_each_backbone(backbone, levels, refused):
    """Cross-attention: the miniature at factor 2 alone, its one-encoder sister at 1 and 2, SDXL at 2 and 4, SD 1.5 and 2.1 at 1 to 8."""
    asked = {"sampling": Sampling(gamma=0.0, layout_guidance=LayoutGuidance(levels=levels))}
    if refused:
        with pytest.raises(ValueError, match=r"sampling\.layout_guidance\.levels = .*factor"):
            check_levels(backbone, asked)
    else:
        check_levels(backbone, asked)


@pytest.mark.parametrize(("override", "said"), [
    ("sampling.layout_guidance={levels: v1}", "sampling.layout_guidance.levels"),
    ("sampling.cfg_plus_plus=0.6", "sampling.guidance_scale"),
    ("sampling={guidance_scale: null, cfg_plus_plus: 0.6, scheduler: dpmpp_2m}", "sampling.cfg_plus_plus"),
])  # fmt: skip
def test_a_run_that_cannot_work_is_one_line_and_leaves_nothing(monkeypatch, capsys, tmp_path, override, said):
    """Exit status 2: no model is loaded, no Ray started and no folder made."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(models, "load", pytest.fail)
    monkeypatch.setattr(cluster, "connected", pytest.fail)
    settings = (f"runs={tmp_path}", override, "sampling.gamma=0")
    arguments = ["tests/data/miniature.yaml", *(word for setting in settings for word in ("--set", setting))]
    monkeypatch.setattr(sys, "argv", ["selftrain", *arguments])
    with pytest.raises(SystemExit) as stopped:
        entry.run(selftrain)
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("reading the photos of ")]
    assert said in line
    assert not list(tmp_path.iterdir())
