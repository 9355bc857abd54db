"""Whatever bytes and text a file holds, reading it gives what it promises or one ValueError of a single line that names the file."""

import json
import string
import tempfile
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from bad_photos import HEADER, encoded, entry, pair, photo, profile, sideways, write
from bad_texts import RUN
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mudi.dataset import load_combination
from mudi.user_files.photos import read_image
from pipeline.settings.config import RunConfig, load_run

# The same examples every time; the machine's load must not fail a test.
BOUNDED = settings(derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck), max_examples=300)
FORMS = {
    "JPEG": lambda: sideways(),
    "PNG": lambda: encoded(photo(0, 24, 40), "PNG", icc_profile=profile(rXYZ=b"gXYZ", gXYZ=b"rXYZ")),
    "WEBP": lambda: encoded(photo(0, 24, 40).convert("RGBA"), "WEBP"),
}


@cache
def whole(form: str) -> bytes:
    return FORMS[form]()


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """The bytes cut, or with up to four places changed, left out or put in; most of them in the first hundred, where formats are told."""
    data = bytearray(content)
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, 100) | st.integers(0, len(content)))
        data[start : start + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(data[: draw(st.none() | st.integers(0, len(data)))])


def line_of(call, *arguments) -> str | None:
    """The one line of the ValueError that a call raises, None if it returns; any other exception fails the test."""
    try:
        call(*arguments)
    except ValueError as error:
        line = str(error)
    else:
        return None
    assert len(line.splitlines()) == 1, line
    return line


@pytest.mark.parametrize("form", FORMS)
def test_a_damaged_photo_is_an_array_or_a_line(form, tmp_path):
    path = tmp_path / "photo"

    @BOUNDED
    @given(damaged(whole(form)))
    def read(content):
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            line = line_of(lambda: check_array(read_image(path)))
        assert line is None or line.startswith(f"{path}: cannot read the image")

    read()


def check_array(image: np.ndarray) -> None:
    assert image.dtype == np.uint8
    assert image.ndim == 3
    assert image.shape[2] == 3


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as parent:
        yield pair(Path(parent))


def test_damaged_metadata_is_a_combination_or_a_line(folder):
    text = "\n".join(map(json.dumps, (HEADER, entry("a", 0), entry("b", 0)))).encode()

    @BOUNDED
    @given(damaged(text))
    def read(content):
        (folder / "metadata.jsonl").write_bytes(content)
        line = line_of(load_combination, folder)
        assert line is None or line.startswith(f"{folder / 'metadata.jsonl'}:")

    read()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["a", "b", "a00.png", "olis dog"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.sampled_from(["a", "b", "id"]), inner, max_size=3),
    max_leaves=6,
)
KEYS = st.sampled_from(["id", "file_name", "mask_path", "text", "query"]) | st.text(max_size=5)


@BOUNDED
@given(header=st.dictionaries(KEYS, JSON, max_size=3) | st.just(HEADER), line=JSON | st.dictionaries(KEYS, JSON, max_size=4), change=JSON)
def test_any_json_in_metadata_is_a_combination_or_a_line(folder, header, line, change):
    for last in (line, entry("b", 0) | {"text": change}, entry("b", 0) | {"file_name": change}, entry("b", 0) | {"id": change}):
        write(folder, json.dumps(header), entry("a", 0), json.dumps(last))
        said = line_of(load_combination, folder)
        assert said is None or said.startswith(f"{folder / 'metadata.jsonl'}:")


YAML = st.text(string.ascii_lowercase + string.digits + " \n\t:-[]{}&*!|>#'\"%@`,.?~é\x00\x85\u2028\ufeff", max_size=60)


@BOUNDED
@given(before=st.booleans(), text=YAML | st.text(max_size=60), place=st.integers(0, len(RUN)))
def test_any_text_in_a_run_file_is_settings_or_a_line(tmp_path_factory, before, text, place):
    path = tmp_path_factory.getbasetemp() / "run.yaml"
    path.write_bytes((RUN[:place] + text + RUN[place:] if before else text).encode("utf-8", "surrogatepass"))
    config = []
    line = line_of(lambda: config.append(load_run(path)))
    assert isinstance(config[0], RunConfig) if line is None else line.startswith(str(path))
