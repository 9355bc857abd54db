"""The run file: every mistake is one line that says where it is and what to do."""

import math
from pathlib import Path

import pytest

from pipeline.settings.config import RunConfig, config_hash, load_run

GOOD = """\
name: two-toys
combinations: [photos/cat_and_dog]
candidates: 8
keep: 2
prompts: ["a photo of {subjects}"]
"""


@pytest.fixture
def write(tmp_path):
    def write_run(text: str | bytes) -> Path:
        path = tmp_path / "run.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_run


def complaint(path: Path, overrides=()) -> str:
    with pytest.raises(ValueError, match=r".") as caught:
        load_run(path, overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_run_file_gets_its_defaults_and_overrides(write):
    config = load_run(write(GOOD), ["cluster.workers.gpus=0.25", "combinations=[../a/b, c]", "sampling.steps=20", "method.rank=4"])
    assert config.cluster.workers.gpus == 0.25
    assert [folder.name for folder in config.combinations] == ["b", "c"]
    assert all(folder.is_absolute() and ".." not in folder.parts for folder in config.combinations)
    assert (config.sampling.steps, config.sampling.guidance_scale) == (20, 5.0)
    assert (config.method.name, config.method.hyperparameters) == ("mudi", {"rank": 4})


def test_a_config_survives_the_way_through_json(write):
    config = load_run(write(GOOD + "method: {name: mudi, scales: [0.5, 1]}\n"))
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def test_yaml_is_version_1_2(write):
    config = load_run(write(GOOD + "retrain: {learning_rate: 2e-5}\nmethod: {name: no}\n"))
    assert math.isclose(config.retrain.learning_rate, 0.00002)
    assert config.method.name == "no"


def test_a_utf8_byte_order_mark_is_accepted(write):
    assert load_run(write(b"\xef\xbb\xbf" + GOOD.encode())).name == "two-toys"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ["the run file is empty"]),
        ("- a\n", ["line 1", "is a list"]),
        (GOOD + "sead: 1\n", ["line 6", "unknown key 'sead'", "did you mean 'seed'?"]),
        (GOOD + "cluster:\n  workers: {gpu: 1}\n", ["line 7", "unknown key 'cluster.workers.gpu'", "did you mean 'gpus'?"]),
        (GOOD + "seed: 1\nseed: 2\n", ["line 7", "duplicate key 'seed'", "line 6"]),
        (GOOD + "sampling:\n\tsteps: 3\n", ["line 7, column 1", "a tab"]),
        (GOOD + "prompts: [a\n", ["line 7"]),
        (GOOD + "retrain: {learning_rate: fast}\n", ["line 6", "retrain.learning_rate", '"fast"', "valid number"]),
        (GOOD + "retrain: {learning_rate: .nan}\n", ["line 6", "not a finite number"]),
        (GOOD + "retrain: {learning_rate: 0}\n", ["line 6: retrain.learning_rate = 0.0: allowed are numbers above 0"]),
        (GOOD + "method: {name: mudi, weight: .inf}\n", ["line 6", "not a finite number"]),
        (GOOD + "sampling: {steps: -3}\n", ["line 6", "sampling.steps = -3: allowed are 1 to 999"]),
        (GOOD + "sampling:\n  gamma: 0.5\n  steps: 1000\n", ["line 8: sampling.steps = 1000: allowed are 1 to 999"]),
        (GOOD + 'sampling: {steps: "3"}\n', ["line 6: sampling.steps: input should be a valid integer"]),
        (GOOD + "sampling: {overlap: no}\n", ["line 6: sampling.overlap: input should be a valid boolean"]),
        (GOOD + "sampling: {batch: 0}\n", ["line 6: sampling.batch: input should be greater than or equal to 1, got 0"]),
        (GOOD + "sampling: {scales: [1, 2]}\n", ["line 6: sampling.scales = (1.0, 2.0): allowed are shares above 0 and up to 1"]),
        (GOOD + "sampling: {guidance_scale: -1}\n", ["line 6: sampling.guidance_scale = -1.0: allowed are 0 and above"]),
        (GOOD + f"sampling: {{negative_prompt: {'x' * 2001}}}\n", ["line 6: sampling.negative_prompt", "up to 2000 characters"]),
        (GOOD + "sampling: 3\n", ["line 6: sampling: input should be an object, got 3"]),
        (GOOD + "sampling: {layout_guidance: {wieght: 1}}\n", ["unknown key 'sampling.layout_guidance.wieght'; did you mean 'weight'?"]),
        (GOOD + "sampling: {layout_guidance: {levels: [1, 1]}}\n", ["line 6: sampling.layout_guidance.levels = (1, 1): allowed are"]),
        (GOOD + "retrain: {stepz: 1}\n", ["line 6: unknown key 'retrain.stepz'; did you mean 'steps'?"]),
        (GOOD + "retrain: {steps: 0}\n", ["line 6: retrain.steps = 0: allowed are 1 and above"]),
        (GOOD + "retrain: {kl_weight: -1}\n", ["line 6: retrain.kl_weight = -1.0: allowed are 0"]),
        (GOOD + "retrain: {reference_share: 2}\n", ["line 6: retrain.reference_share = 2.0: allowed are 0 to 1"]),
        (GOOD + 'rounds: "3"\n', ["line 6", "rounds", "valid integer"]),
        (GOOD + "models: {embedders: {dreamsim: null}}\n", ["line 6", "models.embedders", "no embedder"]),
        (GOOD + "cluster: {address: 10.0.0.1}\n", ["line 6", "cluster.address", "10.0.0.1"]),
        (GOOD + "method: !!python/object:os.system {}\n", ["line 6", "python/object:os.system", "not allowed"]),
        (GOOD + "queries: &x {}\nmethod: *x\n", ["line 6", "anchors and aliases"]),
        (GOOD + "queries: " + "[" * 5000 + "\n", ["line", "levels deep"]),
        (GOOD + "queries: " + "[" * 40 + "]" * 40 + "\n", ["line 6", "levels deep"]),
        (GOOD + "---\nname: b\n", ["line 6", "document"]),
        (GOOD.replace("keep: 2", "keep: 9"), ["line 4", "keep", "more than candidates (8)"]),
        (GOOD.replace("two-toys", "../two"), ["line 1", "name", "../two"]),
        (GOOD.replace("two-toys", "2026-01-01"), ["line 1", "timestamp", "quoted text"]),
        (GOOD.replace("keep: 2\n", ""), ["missing key 'keep'"]),
        (GOOD.replace("photos/cat_and_dog", "x/cat, y/cat"), ["line 2", "'cat'", "rename"]),
        (GOOD.replace('["a photo of {subjects}"]', "[]"), ["line 5", "prompts", "at least 1"]),
        (GOOD.replace('"a photo of {subjects}"', "1, 2"), ["line 5", "prompts[0]", "valid string"]),
        (GOOD.encode("utf-16"), ["not UTF-8"]),
        (b"name: caf\xe9\n", ["not UTF-8"]),
        (b"name: a\x00b\n", ["plain UTF-8 text"]),
    ],
)
def test_a_mistake_is_one_line_with_place_key_and_remedy(write, text, expected):
    path = write(text)
    message = complaint(path)
    assert message.startswith(str(path))
    for part in expected:
        assert part in message


def test_a_missing_file_is_named(tmp_path):
    assert "no such run file" in complaint(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("sampling.step=2", "did you mean 'steps'?"),
        ("sampling.steps=2.5", "sampling.steps"),
        ("seed", "expected key.sub=value"),
        ("seed.x=1", "seed"),
        ("keep=[", "line 1"),
        ("name=", "name"),
    ],
)
def test_a_wrong_override_is_quoted(write, override, expected):
    message = complaint(write(GOOD + "seed: 3\n"), [override])
    assert f"--set {override}" in message
    assert expected in message


def test_the_hash_follows_results_and_ignores_placement(write):
    path = write(GOOD)
    first = config_hash(load_run(path))
    for same in (
        "cluster.workers.count=4",
        "cluster.workers.cpus=1.5",
        "runs=elsewhere",
        "name=other",
        "combinations=[moved/cat_and_dog]",
        "sampling.gamma=1",
    ):
        assert config_hash(load_run(path, [same])) == first, same
    for other in (
        "seed=1",
        "cluster.workers.gpus=1",
        "cluster.workers.cpus=2",
        "sampling.batch=4",
        "method.rank=4",
        "keep=3",
        "combinations=[cat_and_fox]",
        "models.backbone=folder",
    ):
        assert config_hash(load_run(path, [other])) != first, other
