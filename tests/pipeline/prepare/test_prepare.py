"""`mudi prepare`: every file accounted for, sources untouched, edits respected, and a folder that loads as a combination."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from prepared_photos import SETTINGS, WITHOUT_MODELS, bare, contents, edit, never, save, silent

from mudi.dataset import check_images, load_combination, load_segments
from mudi.user_files.photos import read_image, read_mask
from pipeline.prepare.prepare import prepare
from pipeline.prepare.sources import scan
from pipeline.prepare.text import summary
from pipeline.prepare.writer import templates_writer
from pipeline.settings.subjects_file import read_subjects


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.fixture
def messy(tmp_path):
    """A folder as users have them: 7 photos that can be used, 2 masks of them that can, and 11 files that cannot."""
    folder = tmp_path / "messy"
    (folder / "deeper").mkdir(parents=True)
    save(folder / "plain.JPEG", (10, 10, 10), format="JPEG")
    save(folder / "misnamed.jpg", (20, 10, 10), format="PNG")
    save(folder / "turned.jpg", (30, 10, 10), exif=turned(6))
    save(folder / "cmyk.jpg", (40, 10, 10), mode="CMYK")
    save(folder / "clear.png", (50, 10, 10), mode="RGBA")
    save(folder / "grey.webp", (60, 60, 60))
    save(folder / "mask less.png", (70, 10, 10))
    mask = np.zeros((20, 30), dtype=np.uint8)
    mask[2:9, 3:14] = 255
    Image.fromarray(mask).save(folder / "MASK_plain.PNG")
    Image.fromarray(mask).save(folder / "mask_turned.png")
    Image.fromarray(mask[:18]).save(folder / "mask_cmyk.png")
    shutil.copy(folder / "mask_turned.png", folder / "mask_nobody.png")
    shutil.copy(folder / "mask_turned.png", folder / "mask_turned.webp")
    shutil.copy(folder / "plain.JPEG", folder / "plain copy.jpg")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "page.png").write_text("<html>not found</html>")
    whole = save(folder / "cut.jpg", (80, 10, 10), size=(300, 200), quality=95).read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "notes.txt").write_text("corgi")
    (folder / ".DS_Store").write_bytes(b"\0")
    save(folder / "dot.png", size=(1, 1))
    return folder


def test_every_file_is_a_photo_a_mask_or_skipped_with_a_reason(messy):
    before = contents(messy)
    found = scan({"toy": messy})
    masks = [photo for photo in found.photos if photo.mask]
    assert found.found == {"toy": 20}
    assert {photo.path.name for photo in found.photos} == {
        "plain.JPEG", "misnamed.jpg", "turned.jpg", "cmyk.jpg", "clear.png", "grey.webp", "mask less.png",
    }  # fmt: skip
    assert {photo.mask.name for photo in masks} == {"MASK_plain.PNG", "mask_turned.png"}
    assert len(found.photos) + len(masks) + len(found.skipped) == found.found["toy"]
    reasons = {row.file: row.reason for row in found.skipped}
    for name, words in {
        "plain copy.jpg": "the same photo as plain.JPEG",
        "mask_nobody.png": "of a photo 'nobody' that is not there",
        "mask_turned.webp": "a second mask of turned.jpg",
        "mask_cmyk.png": "the mask is 30x18 but its photo 30x20",
        "empty.jpg": "cannot read",
        "page.png": "cannot read",
        "cut.jpg": "cannot read",
        "notes.txt": "cannot read",
        ".DS_Store": "hidden",
        "deeper": "a folder",
        "dot.png": "1x1 pixels",
    }.items():
        assert words in reasons.pop(name)
    assert not reasons
    assert contents(messy) == before


def test_plain_photos_keep_their_bytes_and_others_are_saved_upright(messy, rendered, tmp_path):
    out = tmp_path / "pair"
    sources = {"toy": messy, "dog": rendered / "dog"}
    with pytest.raises(ValueError, match=r"5 photo\(s\) have no mask, and --detector is not given"):
        prepare(sources, out, templates_writer(), never, WITHOUT_MODELS, silent)
    assert not list(tmp_path.glob("*pair*"))
    for name in ("misnamed.jpg", "cmyk.jpg", "clear.png", "grey.webp", "mask less.png"):
        size = Image.open(messy / name).size[::-1]
        Image.fromarray((np.indices(size)[0] < 9).astype(np.uint8) * 255).save(messy / f"mask_{Path(name).stem}.png")
    prepared = prepare(sources, out, templates_writer(), never, WITHOUT_MODELS, silent)
    by_source = {photo.record.source: photo for photo in prepared.photos if photo.subject == "toy"}
    for name, suffix in {"plain.JPEG": ".jpg", "misnamed.jpg": ".png", "grey.webp": ".webp", "mask less.png": ".png"}.items():
        assert by_source[name].record.repair is None
        assert by_source[name].name.endswith(suffix)
        assert (out / by_source[name].name).read_bytes() == (messy / name).read_bytes()
    for name, words in {"turned.jpg": "turned upright", "cmyk.jpg": "from CMYK to RGB", "clear.png": "made white"}.items():
        assert words in by_source[name].record.repair
        stored = Image.open(out / by_source[name].name)
        assert (stored.format, stored.mode, stored.getexif().get(0x0112)) == ("PNG", "RGB", None)
        np.testing.assert_array_equal(np.asarray(stored), read_image(messy / name))
    photo = by_source["turned.jpg"]
    np.testing.assert_array_equal(read_mask(out / photo.mask_name, (30, 20)), read_mask(messy / "mask_turned.png", (30, 20), 6))
    assert any("turned.jpg saved anew: turned upright" in line for line in summary(prepared))
    check_images(load_combination(out))


def test_masks_in_the_source_folders_are_kept_and_need_no_models(rendered, tmp_path):
    """The prepared folder holds the same photos, masks and subjects as the rendered combination, byte for byte."""
    prepare({"cat": rendered / "cat", "dog": rendered / "dog"}, tmp_path / "pair", templates_writer(), never, WITHOUT_MODELS, silent)
    made, true = load_combination(tmp_path / "pair"), load_combination(rendered / "pair")
    for ours, theirs in zip(made.subjects, true.subjects, strict=True):
        assert ours.identifier == theirs.identifier
        assert ours.detection_query == theirs.detection_query
        for a, b in zip(load_segments(ours), load_segments(theirs), strict=True):
            np.testing.assert_array_equal(a.image, b.image)
            np.testing.assert_array_equal(a.mask, b.mask)
    assert made.subjects[0].references[0].caption == "A photo of a olis cat."
    assert (tmp_path / "pair" / "mask_cat00.png").read_bytes() == (rendered / "cat" / "mask_a00.png").read_bytes()


@pytest.mark.slow
def test_masks_are_made_once_and_again_only_where_something_changed(rendered, masker, tmp_path):
    """Ten masks; then, in turn: nothing, a photo's box, a subject's query, a mask painted by hand, a mask removed."""
    out = tmp_path / "pair"

    def again():
        masker.asked = []
        return prepare({}, out, templates_writer(), masker, SETTINGS, silent)

    first = prepare(bare(rendered), out, templates_writer(), masker, SETTINGS, silent)
    assert len(masker.asked) == first.renewed == 10
    overlaps = []
    for photo in first.photos:
        truth = read_mask(rendered / ("cat" if photo.subject == "cat" else "dog") / f"mask_{photo.record.source}", (48, 48))
        mask = read_mask(out / photo.mask_name, (48, 48))
        overlaps.append((truth & mask).sum() / (truth | mask).sum())
    print(f"mean IoU {np.mean(overlaps):.4f}, least {min(overlaps):.4f}")
    assert np.mean(overlaps) >= 0.95
    check_images(load_combination(out))
    stored = contents(out)

    assert again().renewed == 0
    assert contents(out) == stored

    edit(out, "      cat01.png:\n", "      cat01.png:\n        box: [10, 5, 40, 47]\n")
    again()
    assert masker.asked == ["cat01.png"]

    edit(out, "query: dog", "query: lighthouse")
    lost = again()
    assert masker.asked == [f"dog0{i}.png" for i in range(5)]
    assert lost.bare == ["dog"]
    assert not list(out.glob("mask_dog*"))
    assert any("dog00.png" in line and "left out until it has a mask" in line for line in summary(lost))
    assert [json.loads(line)["id"] for line in (out / "metadata.jsonl").read_text().splitlines()[1:]] == ["cat"] * 5
    again()
    assert masker.asked == []
    edit(out, "query: lighthouse", "query: dog")
    again()
    assert contents(out)["mask_dog03.png"] == stored["mask_dog03.png"]

    by_hand = Image.fromarray((np.indices((48, 48))[0] < 20).astype(np.uint8) * 255)
    by_hand.save(out / "mask_dog00.png")
    edit(out, "query: dog", "query: lighthouse")
    kept = again()
    assert "dog00.png" not in masker.asked
    assert kept.photos[5].record.mask.origin == "hand"
    assert read_mask(out / "mask_dog00.png", (48, 48))[:20].all()

    (out / "mask_dog00.png").unlink()
    edit(out, "query: lighthouse", "query: dog")
    again()
    assert contents(out)["mask_dog00.png"] == stored["mask_dog00.png"]


def test_a_start_that_died_between_record_and_masks_is_made_good(rendered, masker, tmp_path):
    """The record is in place before the masks it speaks of; an older mask of prepare's own is not taken for a hand's."""
    out = tmp_path / "pair"
    prepare(bare(rendered), out, templates_writer(), masker, SETTINGS, silent)
    old = (out / "mask_cat01.png").read_bytes()
    edit(out, "      cat01.png:\n", "      cat01.png:\n        box: [10, 5, 40, 47]\n")
    prepare({}, out, templates_writer(), masker, SETTINGS, silent)
    new = (out / "mask_cat01.png").read_bytes()
    assert new != old
    (out / "mask_cat01.png").write_bytes(old)
    prepare({}, out, templates_writer(), masker, SETTINGS, silent)
    assert masker.asked == ["cat01.png"]
    assert (out / "mask_cat01.png").read_bytes() == new


def test_edited_words_reach_the_metadata_and_new_photos_are_added(rendered, masker, tmp_path):
    """A changed class goes into captions that held the old one; a sixth photo and a third subject join, a removed one leaves."""
    out = tmp_path / "pair"
    sources = {key: shutil.copytree(folder, tmp_path / key) for key, folder in bare(rendered).items()}
    prepare(sources, out, templates_writer(), masker, SETTINGS, silent)
    edit(out, "class: cat", "class: golden cat")
    edit(out, "caption: A photo of a olis cat.", "caption: My olis cat on a wall.")
    edit(out, "      dog04.png:\n        caption: A photo of a hta dog.\n", "")
    save(tmp_path / "dog" / "sixth.jpg")
    prepared = prepare(sources, out, templates_writer(), masker, SETTINGS, silent)
    assert masker.asked == ["dog05.jpg"]
    assert prepared.removed == ("dog04.png",)
    assert prepared.scan.known == {"cat": 5, "dog": 5}
    captions = [photo.entry.caption for photo in prepared.photos if photo.subject == "cat"]
    assert captions == ["My olis golden cat on a wall."] + ["A photo of a olis golden cat."] * 4
    combination = load_combination(out)
    assert combination.subjects[0].class_noun == "golden cat"
    assert [reference.caption for reference in combination.subjects[0].references] == captions
    assert "dog04.png" not in (out / "metadata.jsonl").read_text()
    assert read_subjects(out / "subjects.yaml") == prepared.file
