"""What a combination lacks for a method or a way of drawing is said before anything is loaded."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from mudi.checkpoints.vocabularies import tokenizers_of
from mudi.dataset import load_combination
from mudi.methods import METHODS
from mudi.model_facts import find_folder
from mudi.options import Sampling
from mudi.user_files.requirements import require
from pipeline.ready import ready
from pipeline.settings.config import load_run
from tests.pipeline.test_rounds import RUN_FILE

DOGS = Path("jobs/configs/miniature/two_dogs")
ABOVE = (50.0, 250.0, 500.0, 900.0)


def refusal(combination, method="mudi", **sampling):
    with pytest.raises(ValueError, match=r"^method: ") as caught:
        require("method", METHODS[method](sampling=Sampling(**sampling)), combination, "miniature")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_sizes_are_one_a_subject():
    assert refusal(load_combination(DOGS), scales=(1.0,)) == "method: sampling.scales has 1 numbers, two_dogs 2 subjects"


@pytest.mark.parametrize(
    ("box", "said"),
    [((50.0, 250.0, 52.0, 252.0), "is empty or off the canvas at 48 pixels"), (ABOVE, "subject 1 is hidden by those after it")],
)
def test_a_layout_in_which_a_subject_would_not_be_seen_is_refused(box, said):
    """A box that is no pixel of 48, and two subjects of one look in one place."""
    dogs = load_combination(DOGS)
    same = replace(dogs, subjects=(dogs.subjects[0], replace(dogs.subjects[0], key="b")), layouts=({"a": box, "b": ABOVE},))
    assert said in refusal(same, layout="given", gamma=1.0)
    require("method", METHODS["mudi"](sampling=Sampling(layout="given", gamma=0.0)), same, "miniature")


def test_a_word_whose_row_is_trained_is_one_token():
    """Of the miniature's words; a method without rows takes any, and of a backbone that is not here nothing is known."""
    dogs = load_combination(DOGS)
    several = replace(dogs, subjects=(replace(dogs.subjects[0], identifier="zqxj"), dogs.subjects[1]))
    assert "identifier 'zqxj' is" in refusal(several, "mix_of_show", gamma=0.0)
    require("method", METHODS["mudi"](sampling=Sampling()), several, "miniature")
    require("method", METHODS["mix_of_show"](sampling=Sampling(gamma=0.0)), several, "not/here")


@pytest.mark.parametrize(("name", "count", "context"), [("miniature", 2, 40), ("miniature-sd", 1, 40), ("random-sd21", 1, 77)])
def test_words_are_known_without_weights(name, count, context):
    tokenizers, read = tokenizers_of(name)
    assert (len(tokenizers), read) == (count, context)
    assert len(tokenizers[0]("dog", add_special_tokens=False).input_ids) == 1


def test_of_a_hub_id_and_of_a_folder_without_words_nothing_is_known(tmp_path):
    assert tokenizers_of("owner/name@0123456") is None
    assert tokenizers_of(str(tmp_path)) is None
    shutil.copytree(find_folder("miniature") / "tokenizer", tmp_path / "tokenizer")
    (tmp_path / "text_encoder").mkdir()
    (tmp_path / "text_encoder" / "config.json").write_text(json.dumps({"max_position_embeddings": 12}))
    assert tokenizers_of(str(tmp_path))[1] == 12


def test_a_run_says_so_before_it_starts(tmp_path):
    config = load_run(Path(RUN_FILE), [f"runs={tmp_path}", "sampling.scales=[1.0]"])
    with pytest.raises(ValueError, match="scales has 1 numbers"):
        ready(config)
