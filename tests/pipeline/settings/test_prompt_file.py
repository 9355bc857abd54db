"""A run's prompts may stand in a file of their own; what is drawn, and the run's identity, follow from the templates in it."""

import json
from pathlib import Path

import pytest
from places import DOGS

from pipeline.ready import ready
from pipeline.settings.config import RunConfig, config_hash, load_run
from pipeline.settings.subjects_file import SubjectsFile, write_subjects

CATS = DOGS.parent / "held_out" / "two_cats_a"
FIRST, SECOND = "a photo of {subjects} on the grass", "a photo of {subjects} in the snow"
PROMPT_FILE = """\
version: 1
source: a test
combinations:
  two_dogs: {evaluation: ["{subjects} at night"], training: ["dogs: {subjects}"]}
  two_cats_a: {evaluation: ["{subjects} at night"], training: ["cats: {subjects}", "more cats: {subjects}"]}
  others: {evaluation: ["{subjects} at night"], training: ["others: {subjects}"]}
"""


@pytest.fixture
def run(tmp_path):
    """A run of the two dogs, or of other folders, with these `prompts` as YAML."""

    def load(prompts: object, *folders: Path) -> RunConfig:
        names = json.dumps([str(folder) for folder in folders or (DOGS,)])
        path = tmp_path / "run.yaml"
        path.write_text(f"name: r\ncombinations: {names}\ncandidates: 4\nkeep: 2\nprompts: {json.dumps(prompts)}\n")
        return load_run(path)

    return load


@pytest.fixture
def subjects_file(tmp_path):
    """The path of a prepared folder's file with these training prompts."""

    def write(*prompts: str) -> str:
        entry = {"identifier": "olis", "class": "dog", "query": "dog", "photos": {"a.jpg": {"caption": "A olis dog."}}}
        values = {"source": "templates", "subjects": {"a": entry, "b": entry}, "training_prompts": prompts}
        write_subjects(tmp_path / "subjects.yaml", SubjectsFile.model_validate_json(json.dumps(values)))
        return str(tmp_path / "subjects.yaml")

    return write


@pytest.fixture
def prompt_file(tmp_path):
    (tmp_path / "prompts.yaml").write_text(PROMPT_FILE)
    return str(tmp_path / "prompts.yaml")


def drawn(config: RunConfig) -> list[list[str]]:
    return [[prompt.text for prompt in combination.prompts] for combination in ready(config).combinations]


def test_the_prompts_of_a_subjects_file_are_as_if_they_stood_in_the_run_file(run, subjects_file):
    written, named = run([FIRST, SECOND]), run(subjects_file(FIRST, SECOND))
    assert named == written
    assert config_hash(named) == config_hash(written)


def test_an_edited_prompt_makes_another_run_and_a_moved_file_does_not(run, subjects_file, tmp_path):
    path = subjects_file(FIRST, SECOND)
    before = config_hash(run(path))
    (tmp_path / "moved").mkdir()
    moved = Path(path).rename(tmp_path / "moved" / "subjects.yaml")
    assert config_hash(run(str(moved))) == before
    assert config_hash(run(subjects_file(FIRST, SECOND + "."))) != before


def test_every_combination_draws_the_training_prompts_that_a_prompt_file_has_for_it(run, prompt_file):
    config = run(prompt_file, DOGS, CATS)
    dogs, cats = drawn(config)
    assert dogs == ["dogs: a olis pink dog and a hta orange dog"]
    assert [text.partition(":")[0] for text in cats] == ["cats", "more cats"]
    assert RunConfig.model_validate_json(config.model_dump_json()) == config
    given = run({"two_dogs": ["dogs: {subjects}"], "two_cats_a": ["cats: {subjects}", "more cats: {subjects}"]}, DOGS, CATS)
    assert config_hash(given) == config_hash(config)


def test_a_combination_that_the_file_does_not_know_is_named(run, tmp_path):
    (tmp_path / "prompts.yaml").write_text(PROMPT_FILE.replace("  two_cats_a:", "  two_cats_b:"))
    with pytest.raises(ValueError, match="has no prompts for 'two_cats_a', only for two_dogs, two_cats_b, others"):
        run(str(tmp_path / "prompts.yaml"), DOGS, CATS)


@pytest.mark.parametrize(
    ("prompts", "complaint"),
    [
        ({"two_dogs": [FIRST], "cats": [FIRST]}, "line 5: prompts: 'cats' is no combination of this run"),
        ({}, "line 5: prompts: 'two_dogs' has no prompts"),
        ({"two_dogs": []}, r"line 5: prompts.two_dogs: tuple should have at least 1 item"),
        ({"two_dogs": [FIRST, 3]}, r"line 5: prompts.two_dogs\[1\]: input should be a valid string, got 3$"),
        (3, "line 5: prompts: input should be a valid string, got 3$"),
        ([], "line 5: prompts: tuple should have at least 1 item"),
        ("", "line 5: prompts: string should have at least 1 character"),
        ("not/there/subjects.yaml", "not/there/subjects.yaml: no such run file"),
    ],
)
def test_a_mistake_is_one_of_the_form_that_was_meant(run, prompts, complaint):
    with pytest.raises(ValueError, match=complaint) as caught:
        run(prompts)
    assert "<" not in str(caught.value)


def test_a_list_decides_a_run_as_the_list_that_it_is(run):
    """So the forms that were added change the identity of no stored run."""
    assert run([FIRST, SECOND]).model_dump(mode="json")["prompts"] == [FIRST, SECOND]
