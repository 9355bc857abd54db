"""Every file of a source folder is counted once, whatever was prepared before and whatever the names."""

import numpy as np
import pytest
from PIL import Image
from prepared_photos import contents, save

from pipeline.prepare.sources import scan


def mask(path):
    levels = np.zeros((20, 30), np.uint8)
    levels[2:9, 3:14] = 255
    Image.fromarray(levels).save(path)


@pytest.fixture
def folders(tmp_path):
    """Two subjects: two photos and a mask, one photo and a text; one photo of the second is a copy of one of the first."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
    save(tmp_path / "cat" / "one.png", (10, 10, 10))
    save(tmp_path / "cat" / "two.png", (20, 10, 10))
    mask(tmp_path / "cat" / "mask_two.png")
    save(tmp_path / "dog" / "three.png", (30, 10, 10))
    save(tmp_path / "dog" / "copy.png", (10, 10, 10))
    (tmp_path / "dog" / "notes.txt").write_text("a dog")
    return {name: tmp_path / name for name in ("cat", "dog")}


def counted(found, subject):
    own = [photo for photo in found.photos if photo.subject == subject]
    skipped = sum(row.subject == subject for row in found.skipped)
    return len(own) + sum(photo.mask is not None for photo in own) + skipped + found.known[subject]


@pytest.mark.parametrize("before", [0, 1, 2, 3])
def test_counts_add_up_whatever_was_prepared_before(folders, before):
    """Photos known by their hash are not new, and are counted with their masks."""
    written = {name: contents(folder) for name, folder in folders.items()}
    first = scan(folders)
    known = {photo.sha256 for photo in first.photos[:before]}
    again = scan(folders, known)
    assert again.photos == first.photos[before:]
    assert [counted(again, name) for name in folders] == [again.found[name] for name in folders] == [3, 3]
    assert {name: contents(folder) for name, folder in folders.items()} == written


def test_a_copy_in_another_folder_names_the_photo_and_its_subject(folders):
    assert {row.file: row.reason for row in scan(folders).skipped}["copy.png"] == "the same photo as one.png of cat"


@pytest.mark.parametrize("masked", ["a.png", "b.png"])
def test_of_two_copies_the_one_with_a_mask_is_kept(tmp_path, masked):
    for name in ("a.png", "b.png"):
        save(tmp_path / name)
    mask(tmp_path / f"mask_{masked}")
    found = scan({"toy": tmp_path})
    assert [(photo.path.name, photo.mask.name) for photo in found.photos] == [(masked, f"mask_{masked}")]
