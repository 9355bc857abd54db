"""Stored runs and benchmarks go on: what their hashes are made of stays as it was when they were stored."""

import json
from pathlib import Path

import pytest
from places import ROOT

from pipeline import arms
from pipeline.settings.benchmark_config import BenchmarkConfig, benchmark_hash, drawing, load_benchmark, load_plan
from pipeline.settings.config import RunConfig, config_hash, deciding, load_run

CONFIGS, DATA = ROOT / "jobs" / "configs", ROOT / "tests" / "data"
# Of the files in CONFIGS on workers of one thread without a GPU: a run of one of them is in somebody's folder under this hash.
HASHES = {
    "benchmark_composition.yaml": "a420f6a44b752fabe61456aa775a68afbf36e3bcca8175f011fc25bb264e695c",
    "benchmark_composition_tuning.yaml": "404bda6a5c9767751bc5cd77a40a82b512e0256d0079eecdf863df7f98b73a6e",
    "benchmark_mcp.yaml": "67797e642259b189c73e790b0f4f521f86650edb983d42afb087baa5a8fd778b",
    "benchmark_mcp_miniature.yaml": "7dbdd181afd56ce938c32d9045e2ffb607a9c88935d54fe5314ada97afabaf9c",
    "benchmark_miniature.yaml": "b5489c7abfaab9d6a4c3e7abeec723523a9df3f1aa0607b84b7ec70f4274b74a",
    "benchmark_mudi.yaml": "1b828b83130ffbb48393d736d37cf5ef0e45052b7d18d007d8c04cc3bff9e072",
    "benchmark_smoke.yaml": "8ad0a939fdbf3355ee34a1aaf8d99be0ed2c2af94d9685260149bab704c67cf6",
    "benchmark_tuning.yaml": "0262d713b38f9012b57c47e4016332d0fc9aaccf895f5475373eb4671eddd5c3",
    "benchmark_tuning_rewards.yaml": "e1e8753632455e22c31b330960f51f21c4f360de058b3994980b03b853b7567f",
    "benchmark_tuning_rounds.yaml": "0262d713b38f9012b57c47e4016332d0fc9aaccf895f5475373eb4671eddd5c3",
    "miniature.yaml": "1c3bfea4058417689bd8a2ac11380b088fc619f0ac29e4e89e998327ca0449bd",
    "sdxl.yaml": "d666a6d011351b1de30c3ec5ceefd75f8a3642e8d879c98d73b26889cf1edf3f",
}


def hash_of(config: RunConfig | BenchmarkConfig) -> str:
    return config_hash(config) if isinstance(config, RunConfig) else benchmark_hash(config)


def test_every_shipped_file_has_its_hash():
    assert {path.name: hash_of(load_plan(path, ["cluster={}"])) for path in sorted(CONFIGS.glob("*.yaml"))} == HASHES


@pytest.mark.parametrize(
    ("override", "sha256"),
    [
        ("sampling.layout=given", "47a162f46281269c07049950a1ae2f6a5089e59946c8bb70aeccf607d4d0da31"),
        ("sampling={}", "b21239c51de990127382a8cabba9f0e4a81850acf49cd196318ee3121e225ffd"),
        (
            "sampling={layout: given, layout_guidance: {levels: [1, 2], steps: null, weight: 1}}",
            "02ea7f6d8a3fdfe82c7850e6293c8b0ea2f75cec1c7529c921e24c0d74f4560c",
        ),
        ("retrain={kl_weight: 0, learning_rate: 1}", "4d1de4a4a52db2a0d8fa669023ac9edd7913d1d1e50e7a0ecf3be0965dab23ed"),
        ("rounds=1", "8f54ec3521e411c135335dacadd4d85b76f0d4eea9f1f7cbe3e52305d506f150"),
        ("method={name: cones2}", "8548b8f3aec42c17967e3988eec9e23b9318ed272dc24899f0dfc086a8202390"),
    ],
)
def test_a_key_that_is_said_has_its_hash(override, sha256):
    """Later keys, one that is later in a refit alone, nested ones, whole numbers for fractions, and what the method says."""
    assert config_hash(load_run(DATA / "miniature.yaml", [override])) == sha256


@pytest.mark.parametrize("name", ["stored_selftrain.json", "stored_benchmark.json"])
def test_a_stored_run_is_recognised(name, monkeypatch):
    """run.json, whose `overrides` made it from `file`."""
    monkeypatch.chdir(ROOT)
    stored = json.loads((DATA / name).read_text())
    config = load_plan(Path(stored["file"]), stored["overrides"])
    dump = config.model_dump(mode="json")
    fixed = deciding if isinstance(config, RunConfig) else drawing
    assert fixed(stored["config"]) == fixed(dump)
    assert stored["config"].get("methods") == dump.get("methods")
    assert stored["config_sha256"] == hash_of(config)
    read = type(config).model_validate_json(json.dumps({**stored["config"], "cluster": {}}))
    assert hash_of(read) == stored["config_sha256"]


@pytest.mark.parametrize("said", [[], ["methods.top.refit.rounds=1", "methods.top.refit.sampling={}"]])
def test_a_refit_keeps_its_folder(said):
    """Its digits follow from the refit, the pool's sampling and prompts, and the score; run.json holds the keys that it held."""
    config = load_benchmark(DATA / "benchmark_miniature.yaml", said)
    resolved = arms.resolve(config)
    folder = arms.adapter_folder(Path("run"), config, resolved, resolved["top"], "two_dogs_a", 0)
    assert folder.name == "mudi-26143ed9e42c-fit=0-refit-6efa060e169c"
    assert config.model_dump(mode="json")["methods"]["top"]["refit"] == {
        "of": "start", "select": "top", "pool": 80, "keep": 20, "steps": 80, "learning_rate": 5e-4, "batch": 6, "accumulation": 1,
        "kl_weight": 1.0, "reference_share": 0.0,
    }  # fmt: skip
