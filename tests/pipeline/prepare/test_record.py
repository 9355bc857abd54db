"""The record of a prepared folder comes back as it was written, and no other folder is taken for one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.prepare.record import (
    FILE_NAME,
    FoundBox,
    MaskRecord,
    PhotoRecord,
    Record,
    Skipped,
    inputs_sha256,
    printable,
    read_record,
    record_bytes,
)

PHOTO = PhotoRecord(
    source="a.jpg", source_sha256="0", repair="turned upright", inputs="1", doubts=("two pieces",),
    mask=MaskRecord(file="mask_a00.png", origin="made", sha256=("2", "3")), boxes=(FoundBox(confidence=0.5, box=(1.0, 2.0, 3.0, 4.0)),),
)  # fmt: skip
RECORD = Record(
    threshold=0.2,
    phrases={"a": "olis corgi"},
    photos={"a00.png": PHOTO},
    skipped=(Skipped(subject="a", file="x.txt", reason="no picture"),),
)


def test_a_record_comes_back_as_it_was_written(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(record_bytes(RECORD))
    assert read_record(tmp_path) == RECORD


def test_only_an_absent_or_empty_folder_has_no_record(tmp_path):
    assert read_record(tmp_path / "absent") is None
    assert read_record(tmp_path) is None
    (tmp_path / "photo.png").touch()
    with pytest.raises(ValueError, match="was not made by `mudi prepare`"):
        read_record(tmp_path)


@pytest.mark.parametrize(("changed", "place"), [({"version": 2}, "version"), ({"threshold": "high"}, "threshold"), ({"new": 1}, "new")])
def test_a_record_of_another_form_is_refused_by_its_key(tmp_path, changed, place):
    (tmp_path / FILE_NAME).write_text(json.dumps({**json.loads(record_bytes(RECORD)), **changed}))
    with pytest.raises(ValueError, match=rf"{FILE_NAME}: {place}: .*restore the file"):
        read_record(tmp_path)


def test_inputs_that_differ_anywhere_have_another_digest():
    parts = ("photo", "dog", "owl", "sam", 0.2)
    others = [(*parts[:i], "other", *parts[i + 1 :]) for i in range(len(parts))] + [parts[::-1], parts[:-1], ("photodog", *parts[2:])]
    assert len({inputs_sha256(each) for each in (parts, *others)}) == 1 + len(others)
    assert inputs_sha256(parts) == inputs_sha256(list(parts))


@given(st.text(st.characters(exclude_categories=()), max_size=20))
def test_any_text_is_printable_on_one_line_and_printable_text_is_kept(text):
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)
    assert not text.isprintable() or printable(text) == text
