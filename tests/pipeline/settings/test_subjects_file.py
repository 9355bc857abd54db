"""The file that a user edits says the same after being written and read again."""

import json

import pytest

from pipeline.settings.subjects_file import SubjectsFile, read_subjects, write_subjects

VALUES = {
    "source": "templates",
    "subjects": {
        "corgi": {"identifier": "olis", "class": "corgi", "query": "dog", "photos": {"corgi00.jpg": {"caption": "A olis corgi: #1 'x'."}}},
        "chow": {
            "identifier": "hta",
            "class": "chow chow",
            "query": "dog",
            "photos": {"chow00.png": {"caption": "no", "box": [1, 2, 3.5, 4]}},
        },
    },
    "training_prompts": ["{subjects} on the grass"],
    "layouts": [{"corgi": [0, 0, 500, 1024], "chow": [500, 0, 1024, 1024]}],
}


def test_what_is_written_is_read_back(tmp_path):
    file = SubjectsFile.model_validate_json(json.dumps(VALUES))
    write_subjects(tmp_path / "subjects.yaml", file)
    assert read_subjects(tmp_path / "subjects.yaml") == file
    assert (tmp_path / "subjects.yaml").read_text().startswith("# What")


def test_a_mistake_is_named_with_its_line(tmp_path):
    file = SubjectsFile.model_validate_json(json.dumps(VALUES))
    write_subjects(tmp_path / "subjects.yaml", file)
    text = (tmp_path / "subjects.yaml").read_text().replace("query: dog", "query: dog\n    quary: cat", 1)
    (tmp_path / "subjects.yaml").write_text(text)
    line = next(i for i, row in enumerate(text.splitlines(), 1) if "quary" in row)
    with pytest.raises(ValueError, match=rf"subjects.yaml, line {line}: unknown key 'subjects.corgi.quary'"):
        read_subjects(tmp_path / "subjects.yaml")
