"""Bad input to `mudi selftrain`: one line that names the file, key or line, exit status 2, nothing written."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from places import DOGS, ROOT

from jobs import entry
from jobs.selftrain import selftrain
from pipeline.workers import cluster

RUN_FILE = ROOT / "tests" / "data" / "miniature.yaml"


def refused(monkeypatch, capsys, *arguments):
    """What the verb says on stderr when it refuses; asserts status 2 and a single line."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["selftrain", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        entry.run(selftrain)
    assert stopped.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("reading the photos of ")]
    return line


@pytest.fixture
def pair(tmp_path):
    shutil.copytree(DOGS, tmp_path / "pair")
    return tmp_path / "pair"


def test_a_missing_run_file(monkeypatch, capsys):
    assert "nowhere.yaml" in refused(monkeypatch, capsys, "nowhere.yaml")


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("combinations=[no/such/folder]", "no/such/folder"),
        ("keep=1000", "keep"),
        ("sead=3", "did you mean 'seed'"),
        ("method.name=modi", "modi"),
        ("models.backbone=no-such-model", "no-such-model"),
        ("models.detector=google/owlv2-base-patch16-ensemble", "@REVISION"),
    ],
)
def test_a_bad_setting_is_named(monkeypatch, capsys, tmp_path, setting, named):
    line = refused(monkeypatch, capsys, RUN_FILE, "--set", setting, "--set", f"runs={tmp_path / 'runs'}")
    assert named in line
    assert not (tmp_path / "runs").exists()


def break_json(pair):
    lines = (pair / "metadata.jsonl").read_text().splitlines()
    lines[2] = lines[2][:-3]
    (pair / "metadata.jsonl").write_text("\n".join(lines))
    return "metadata.jsonl:3"


def break_image(pair):
    (pair / "a01.png").write_bytes((pair / "a01.png").read_bytes()[:200])
    return "a01.png"


def shrink_mask(pair):
    from PIL import Image

    Image.open(pair / "mask_b02.png").resize((20, 20)).save(pair / "mask_b02.png")
    return "mask_b02.png"


@pytest.mark.parametrize("damage", [break_json, break_image, shrink_mask])
def test_damaged_photos_are_named(monkeypatch, capsys, tmp_path, pair, damage):
    named = damage(pair)
    line = refused(monkeypatch, capsys, RUN_FILE, "--set", f"combinations=[{pair}]", "--set", f"runs={tmp_path / 'runs'}")
    assert named in line
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_folder_of_another_run_is_refused_and_left_alone(monkeypatch, capsys, tmp_path):
    """A run.json of another config: the differing key is named, no Ray is started and no byte of the folder changes."""
    monkeypatch.setattr(cluster, "connected", pytest.fail)
    folder = tmp_path / "miniature"
    folder.mkdir()
    facts = {"config_sha256": "0" * 64, "inputs": {}, "config": json.loads(json.dumps(resolved()))}
    facts["config"]["seed"] = 12345
    (folder / "run.json").write_text(json.dumps(facts))
    before = (folder / "run.json").read_bytes()
    assert "seed was 12345" in refused(monkeypatch, capsys, RUN_FILE, "--set", f"runs={tmp_path}")
    assert [path.name for path in folder.iterdir()] == ["run.json"]
    assert (folder / "run.json").read_bytes() == before


def resolved():
    from pipeline.settings.config import load_run

    return load_run(Path(RUN_FILE)).model_dump(mode="json")
