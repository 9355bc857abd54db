"""`mudi prepare --words`: a word and the environment choose who writes; what an endpoint says is in the folder, its key in no file."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from chat_server import chat_server, says
from PIL import Image
from ruamel.yaml import YAML

from jobs.prepare import chosen_writer
from mudi.dataset import load_combination
from mudi.miniature.references import write_combination
from mudi.miniature.world import parse_identity
from pipeline.prepare.writer import TEMPLATES

ROOT = Path(__file__).parents[3]
KEY = "sk-0123456789-secret"
PHRASES = ("olis tabby cat", "hta pink dog")
PHOTO = np.full((48, 64, 3), (200, 100, 50), np.uint8)
CAPTIONS = {phrase: [f"A photo of a {phrase} {place}." for place in ("on a wall", "in the grass")] for phrase in PHRASES}
PROMPTS = [f"{{subjects}} on planet {number}" for number in range(10)]
# x0, y0, x1, y1 of the cat and of the dog.
LAYOUTS = [((0, 100 * n, 400, 100 * n + 600), (500, 50 * n, 1000.5, 50 * n + 700)) for n in range(4)]


def described(subject, box):
    return dict(zip(("subject", "x_min", "y_min", "x_max", "y_max"), (subject, *box)))


@pytest.fixture
def environment(monkeypatch):
    """Sets the endpoint's address and key, or takes them away."""

    def put(address=None, key=None):
        for name, value in (("MUDI_WORDS_ADDRESS", address), ("MUDI_WORDS_KEY", key)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)

    put()
    return put


def test_templates_need_no_address(environment):
    writer = chosen_writer("templates", 0)
    assert writer.source == "templates"
    assert writer.prompts(PHRASES, 2) == list(TEMPLATES[:2])


@pytest.mark.parametrize(
    ("words", "asked"),
    [
        ("endpoint:seer", ("seer", "seer")),
        ("endpoint:seer,poet", ("seer", "poet")),
        ("endpoint: seer , poet ", ("seer", "poet")),
        ("endpoint:vendor/seer:free,vendor/poet:free", ("vendor/seer:free", "vendor/poet:free")),
    ],
)
def test_an_endpoint_is_asked_under_the_names_given_with_the_key_of_the_environment(environment, words, asked):
    """The first model for what is in a photo, the last for prompts; a name may hold colons and slashes."""
    with chat_server([says({"descriptive_class": "corgi"}), says({"prompts": PROMPTS})]) as server:
        environment(server.address, KEY)
        writer = chosen_writer(words, 0)
        writer.describe([PHOTO], "dog")
        writer.prompts(PHRASES, 2)
    assert tuple(request.body["model"] for request in server.asked) == asked
    assert [request.headers["Authorization"] for request in server.asked] == [f"Bearer {KEY}"] * 2


def test_an_endpoint_without_a_key_is_sent_none(environment):
    with chat_server([says({"descriptive_class": "corgi"})]) as server:
        environment(server.address)
        assert chosen_writer("endpoint:seer", 0).describe([PHOTO], "dog") == "corgi"
    assert "Authorization" not in server.asked[0].headers


@pytest.mark.parametrize(
    ("words", "address", "key", "message"),
    [
        ("endpoint", "http://127.0.0.1:9/v1", None, "--words endpoint: expected endpoint:MODEL or"),
        ("endpoint:", "http://127.0.0.1:9/v1", None, "--words endpoint:: expected"),
        ("endpoint:a,", "http://127.0.0.1:9/v1", None, "--words endpoint:a,: expected"),
        ("endpoint:,b", "http://127.0.0.1:9/v1", None, "--words endpoint:,b: expected"),
        ("endpoint:a,b,c", "http://127.0.0.1:9/v1", None, "--words endpoint:a,b,c: expected"),
        ("endpoint:a", None, None, "MUDI_WORDS_ADDRESS is not set"),
        ("endpoint:a", "", None, "MUDI_WORDS_ADDRESS is not set"),
        ("endpoint:a", "words.example", None, "no http or https address"),
        ("endpoint:a", "https://words.example/v1", "", "the key for https://words.example/v1 is empty"),
        ("endpoint:a", "https://words.example/v1", "two " + KEY, "copy it again"),
        ("template", None, None, "model 'template'"),
        ("https://words.example/v1", None, KEY, "model 'https://words.example/v1'"),
        ("", None, None, "--words '': names nobody; give templates"),
    ],
)
def test_words_that_name_nobody_are_refused_in_one_line_without_the_key(environment, words, address, key, message):
    environment(address, key)
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        chosen_writer(words, 0)
    assert message in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Two rendered photos each of a cat and a dog, without masks."""
    work = tmp_path_factory.mktemp("photos")
    write_combination(work / "pair", [parse_identity("cat yellow green scarf black"), parse_identity("dog pink red hat purple")], 207)
    for key, name in (("a", "cat"), ("b", "dog")):
        (work / name).mkdir()
        for number in range(2):
            shutil.copy(work / "pair" / f"{key}0{number}.png", work / name)
    return work


@pytest.fixture(scope="module")
def asked_of_models(photos):
    """`mudi prepare` with an endpoint that describes a cat and a dog: the folder, what was asked, what was printed."""
    replies = []
    for phrase in PHRASES:
        replies += [{"descriptive_class": phrase.split(" ", 1)[1]}, *({"caption": caption} for caption in CAPTIONS[phrase])]
    replies.append({"prompts": PROMPTS})
    replies.append({"layouts": [{"boxes": [described("dog", dog), described("cat", cat)]} for cat, dog in LAYOUTS]})
    with chat_server([says(reply) for reply in replies]) as server:
        ran = subprocess.run(
            [
                sys.executable, "-m", "jobs.prepare", f"cat={photos / 'cat'}", f"dog={photos / 'dog'}", "--out", photos / "made",
                *("--detector", "miniature", "--segmenter", "miniature", "--backbone", "miniature", "--words", "endpoint:seer,poet"),
            ],
            cwd=ROOT, env={**os.environ, "MUDI_WORDS_ADDRESS": server.address, "MUDI_WORDS_KEY": KEY}, capture_output=True, text=True,
        )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return photos / "made", server.asked, ran.stdout + ran.stderr


def test_the_models_words_are_in_subjects_yaml_and_in_the_metadata(asked_of_models):
    out, asked, _ = asked_of_models
    file = YAML(typ="safe").load(out / "subjects.yaml")
    assert [request.body["model"] for request in asked] == ["seer"] * 6 + ["poet"] * 2
    assert (file["subjects"]["cat"]["class"], file["subjects"]["dog"]["class"]) == ("tabby cat", "pink dog")
    assert [file["subjects"][key]["query"] for key in ("cat", "dog")] == ["cat", "dog"]
    for key, phrase in zip(("cat", "dog"), PHRASES, strict=True):
        assert [photo["caption"] for photo in file["subjects"][key]["photos"].values()] == CAPTIONS[phrase]
    assert file["training_prompts"] == PROMPTS
    assert [(layout["cat"], layout["dog"]) for layout in file["layouts"]] == [(list(cat), list(dog)) for cat, dog in LAYOUTS]
    assert "seer" in file["source"]
    assert "poet" in file["source"]
    combination = load_combination(out)
    assert tuple(subject.phrase for subject in combination.subjects) == PHRASES
    assert [[reference.caption for reference in subject.references] for subject in combination.subjects] == list(CAPTIONS.values())


def test_the_models_layouts_are_in_the_header_and_drawn(asked_of_models):
    """The canvas of the first layout: nothing stands between the cat's box and the dog's, from x = 400 to 500 of 1024."""
    out, *_ = asked_of_models
    header = json.loads((out / "metadata.jsonl").read_text().splitlines()[0])
    assert header["layouts"] == [{"cat": list(cat), "dog": list(dog)} for cat, dog in LAYOUTS]
    assert load_combination(out).layouts == tuple({"cat": cat, "dog": dog} for cat, dog in LAYOUTS)
    picture = np.asarray(Image.open(out / "layouts.png"), dtype=float)
    assert picture.std() > 10


def test_the_key_is_in_no_file_and_in_nothing_that_is_printed(asked_of_models):
    out, asked, printed = asked_of_models
    files = [path for path in out.rglob("*") if path.is_file()]
    assert len(files) > 8
    assert [path.name for path in files if KEY.encode() in path.read_bytes()] == []
    assert KEY not in printed
    assert {request.headers["Authorization"] for request in asked} == {f"Bearer {KEY}"}
