"""Bad input to `mudi benchmark`: one line that names the place, exit status 2, nothing written."""

import json
import shutil
import sys

import pytest
from places import ROOT

from jobs import entry
from jobs.benchmark import benchmark

RUN_FILE = ROOT / "jobs" / "configs" / "benchmark_smoke.yaml"
PAIR = ROOT / "jobs" / "configs" / "miniature" / "tuning" / "two_dogs_tuning"


def refused(monkeypatch, capsys, tmp_path, *settings):
    """What the verb says on stderr when it refuses; asserts status 2, a single line and no run folder."""
    monkeypatch.chdir(ROOT)
    words = [word for setting in (*settings, f"runs={tmp_path / 'runs'}") for word in ("--set", setting)]
    monkeypatch.setattr(sys, "argv", ["benchmark", str(RUN_FILE), *words])
    with pytest.raises(SystemExit) as stopped:
        entry.run(benchmark)
    assert stopped.value.code == 2
    assert not (tmp_path / "runs").exists()
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("reading the photos of ")]
    return line


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("imagess=3", "did you mean 'images'"),
        ("methods.mudi.stepps=3", "methods.mudi.stepps"),
        ("methods.other={like: mudy}", "did you mean 'mudi'"),
        ("metrics=[clip]", "'clip' is unknown"),
        ("models.image_reward=weights/nowhere", "weights/nowhere"),
        ("models.oracle=null", "models.oracle"),
        ("prompts=nowhere.yaml", "nowhere.yaml"),
        ("combinations=[no/such/folder]", "no/such/folder"),
        ('prompts=["no subject"]', "names no subject"),
        ("methods.mudi={method: mudi, sampling: {scales: [1.0, 0.5, 0.5]}}", "3 numbers"),
    ],
)
def test_a_bad_setting_is_named(monkeypatch, capsys, tmp_path, setting, named):
    assert named in refused(monkeypatch, capsys, tmp_path, setting)


def test_photos_without_masks_are_refused_by_the_arm_that_needs_them(monkeypatch, capsys, tmp_path):
    shutil.copytree(PAIR, tmp_path / "bare")
    lines = [json.loads(line) for line in (tmp_path / "bare" / "metadata.jsonl").read_text().splitlines()]
    for line in lines[1:]:
        del line["mask_path"]
    (tmp_path / "bare" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    line = refused(monkeypatch, capsys, tmp_path, f"combinations=[{tmp_path / 'bare'}]")
    assert "has no mask (10 such photos in bare), and methods.mudi cuts the subjects out" in line


def test_the_oracle_refuses_subjects_that_nobody_rendered(monkeypatch, capsys, tmp_path):
    shutil.copytree(PAIR, tmp_path / "photos")
    (tmp_path / "photos" / "truth.json").unlink()
    assert "the oracle judges rendered subjects only" in refused(monkeypatch, capsys, tmp_path, f"combinations=[{tmp_path / 'photos'}]")
