"""`mudi prepare`: every file accounted for, sources untouched, edits respected, and a folder that loads as a combination."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jobs import entry
from jobs.prepare import prepare as verb
from mudi import models
from mudi.dataset import check_images, load_combination, load_segments
from mudi.miniature.references import write_combination
from mudi.miniature.world import parse_identity
from mudi.photos import read_image, read_mask
from pipeline.contact_sheet import PAGE, PICTURE
from pipeline.prepare import prepare
from pipeline.prepare_masks import MaskSettings, batches, in_this_process, make_masks
from pipeline.prepare_sources import scan, shown
from pipeline.prepare_text import summary
from pipeline.subjects_file import read_subjects
from pipeline.wording import Writer, templates_writer

SETTINGS = MaskSettings(detector="miniature", segmenter="miniature", threshold=0.2)
WITHOUT_MODELS = MaskSettings(detector="", segmenter="", threshold=0.2)


def silent(label, done, total):
    pass


@pytest.fixture(scope="module")
def judges():
    return models.load_detector("miniature"), models.load_segmenter("miniature")


@pytest.fixture
def masker(judges):
    """The plain loop with models that are loaded once; `asked` collects the photos it was asked for, by name."""

    def mask(jobs, progress):
        mask.asked = [Path(job.photo).name for job in jobs]
        return [made for batch in batches(jobs) for made in make_masks(*judges, batch, SETTINGS.threshold)]

    mask.asked = []
    return mask


def never(jobs, progress):
    raise AssertionError(f"no photo needs a mask, and {len(jobs)} were asked for")


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """A rendered cat and dog with their true masks, five photos each: a source folder of each, and another without masks."""
    work = tmp_path_factory.mktemp("rendered")
    write_combination(work / "pair", [parse_identity("cat yellow green scarf black"), parse_identity("dog pink red hat purple")], 207)
    for key, name in (("a", "cat"), ("b", "dog")):
        (work / name).mkdir()
        (work / f"{name}_bare").mkdir()
        for path in sorted((work / "pair").glob(f"*{key}0*.png")):
            shutil.copy(path, work / name)
            if not path.name.startswith("mask_"):
                shutil.copy(path, work / f"{name}_bare")
    return work


def bare(rendered):
    return {"cat": rendered / "cat_bare", "dog": rendered / "dog_bare"}


def contents(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def edit(out, old, new):
    text = (out / "subjects.yaml").read_text()
    assert old in text
    (out / "subjects.yaml").write_text(text.replace(old, new, 1))


def save(path, colour=(200, 30, 30), size=(30, 20), mode="RGB", **options):
    """A picture with a corner of another colour, so that a turn shows."""
    image = Image.new("RGB", size, colour)
    image.paste((0, 0, 255), (0, 0, 8, 4))
    image.convert(mode).save(path, **options)
    return path


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
    captions = [photo.caption for photo in prepared.photos if photo.subject == "cat"]
    assert captions == ["My olis golden cat on a wall."] + ["A photo of a olis golden cat."] * 4
    combination = load_combination(out)
    assert combination.subjects[0].class_noun == "golden cat"
    assert [reference.caption for reference in combination.subjects[0].references] == captions
    assert "dog04.png" not in (out / "metadata.jsonl").read_text()
    assert read_subjects(out / "subjects.yaml") == prepared.file


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("identifier: hta", "identifier: olis", "subjects.dog.identifier: 'olis' is that of cat too"),
        ("identifier: hta", "identifier: h ta", "must be one word"),
        ("  dog:\n    identifier", "  the dog:\n    identifier", 'subjects.the dog: the subject key "the dog" must be a letter'),
        ("caption: A photo of a hta dog.", "caption: a dog", 'dog00.png.caption does not name "hta"'),
        ("caption: A photo of a hta dog.", "caption: a dog on a lahtarug", 'dog00.png.caption does not name "hta"'),
        ("caption: A photo of a hta dog.", "caption: a HTA dog, olis.", 'names "olis", the identifier of "cat"'),
        ("caption: A photo of a hta dog.", 'caption: "a hta\\x85 dog"', "remove control characters"),
        ("class: dog", 'class: "do\\u2028g"', "remove control characters"),
        ("query: dog", 'query: "  "', '"query" is "  "; give it a text'),
        ("  dog:\n    identifier", "  CON:\n    identifier", 'the subject key "CON" has a meaning of its own'),
        ("      dog00.png:", "      nul.png:", "'nul.png' is not in the folder"),
        ("      dog00.png:", "      dog99.png:", "'dog99.png' is not in the folder"),
        ("      dog00.png:\n", "      dog00.png:\n        box: [5, 5, 60, 20]\n", "x0 < x1 <= 48"),
        ("      dog00.png:\n", "      dog00.png:\n        points: [[5, 48]]\n", "lies outside the photo of 48x48"),
        ("class: dog", "clas: dog", "missing key 'subjects.dog.class'"),
    ],
)  # fmt: skip
def test_an_edit_that_cannot_be_used_is_named_and_changes_nothing(prepared_once, tmp_path, old, new, message):
    out = shutil.copytree(prepared_once, tmp_path / "pair")
    edit(out, old, new)
    before = contents(out)
    with pytest.raises(ValueError, match=r"subjects\.yaml") as raised:
        prepare({}, out, templates_writer(), never, WITHOUT_MODELS, silent)
    assert message in str(raised.value)
    assert contents(out) == before


def test_a_photo_that_is_named_as_a_device_is_refused(prepared_once, tmp_path):
    out = shutil.copytree(prepared_once, tmp_path / "pair")
    (out / "dog00.png").rename(out / "nul.png")
    edit(out, "      dog00.png:", "      nul.png:")
    with pytest.raises(ValueError, match=r"'nul\.png' is a device on some systems; rename the photo"):
        prepare({}, out, templates_writer(), never, WITHOUT_MODELS, silent)


def test_a_box_beside_a_mask_that_a_person_made_is_said_to_be_unused(prepared_once, tmp_path):
    """First beside a mask from the source folder, then beside one painted here; without the box nothing is said."""
    out = shutil.copytree(prepared_once, tmp_path / "pair")
    assert not any("not used" in line for line in summary(prepare({}, out, templates_writer(), never, WITHOUT_MODELS, silent)))
    edit(out, "      dog00.png:\n", "      dog00.png:\n        box: [5, 5, 40, 40]\n        points: [[9, 9]]\n")
    said = [line for line in summary(prepare({}, out, templates_writer(), never, WITHOUT_MODELS, silent)) if "not used" in line]
    assert said == [
        "not used: box and points of dog00.png, whose mask came with the photo; delete mask_dog00.png and start again to have one made"
    ]
    assert "mask from the source folder; what subjects.yaml says of its place is not used" in (out / PAGE).read_text()
    Image.fromarray((np.indices((48, 48))[0] < 20).astype(np.uint8) * 255).save(out / "mask_dog00.png")
    painted = prepare({}, out, templates_writer(), never, WITHOUT_MODELS, silent)
    assert any("not used: box and points of dog00.png, whose mask was painted by hand" in line for line in summary(painted))
    assert "mask painted by hand; what subjects.yaml says of its place is not used" in (out / PAGE).read_text()


@pytest.fixture(scope="module")
def prepared_once(rendered, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "pair"
    prepare({"cat": rendered / "cat", "dog": rendered / "dog"}, out, templates_writer(), never, WITHOUT_MODELS, silent)
    return out


def refused(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["prepare", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        entry.run(verb)
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["cat={cat}", "--out", "{tmp}/new"], "1 subject(s)"),
        (["cat={cat}", "dog={dog}", "--out", "{tmp}/full"], "not made by `mudi prepare`"),
        (["cat={cat}", "dog={dog}", "--out", "{cat}/new"], "lies in the photos of cat"),
        (["cat={cat}", "dog={tmp}/full", "--out", "{tmp}/new"], "no file in it can be used as a photo"),
        (["cat={cat}", "dog={tmp}/nowhere", "--out", "{tmp}/new"], "no such folder"),
        (["cat={cat}", "the dog={dog}", "--out", "{tmp}/new"], "must be a letter"),
        (["cat={cat}", "nul={dog}", "--out", "{tmp}/new"], 'the subject key "nul" has a meaning of its own'),
        (["cat={cat}", "Subjects={dog}", "--out", "{tmp}/new"], 'the subject key "Subjects" has a meaning of its own'),
        (["cat={cat}", "mask_dog={dog}", "--out", "{tmp}/new"], "files named mask_... are masks"),
        (["cat={cat}", "dog={dog}", "--out", "{tmp}/CON"], '"CON" is a device on some systems'),
        (["cat={cat}", "dog={dog}", "--out", "{tmp}/com1.pair"], '"com1.pair" is a device on some systems'),
        (["cat={cat}", "cat={dog}", "--out", "{tmp}/new"], "given twice"),
        (["{cat}", "dog={dog}", "--out", "{tmp}/new"], "expected NAME=FOLDER"),
        (["cat={cat}", "dog={dog}", "--out", "{tmp}/my pair"], "the folder's name names the combination"),
        (["cat={cat}", "dog={dog}", "--out", "{tmp}/new", "--address", "there"], "expected auto"),
    ],
)
def test_what_cannot_be_prepared_is_one_line_and_nothing_is_written(rendered, monkeypatch, capsys, tmp_path, arguments, named):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    places = {"cat": rendered / "cat", "dog": rendered / "dog", "tmp": tmp_path}
    assert named in refused(monkeypatch, capsys, *(argument.format(**places) for argument in arguments))
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def test_a_subject_without_any_mask_is_written_and_fails(rendered, monkeypatch, capsys, tmp_path):
    """Status 1: the folder is there to be corrected, but nothing can be trained on it yet."""
    (tmp_path / "a").mkdir()
    save(tmp_path / "a" / "x.png")
    arguments = [f"cat={rendered / 'cat'}", f"lighthouse={tmp_path / 'a'}", "--out", tmp_path / "pair"]
    monkeypatch.setattr(sys, "argv", ["prepare", *map(str, arguments), "--detector", "miniature", "--segmenter", "miniature"])
    with pytest.raises(SystemExit) as stopped:
        entry.run(verb)
    assert stopped.value.code == 1
    said = capsys.readouterr()
    assert 'lighthouse00.png: no box for "lighthouse" above 0.2' in said.out
    assert "no photo of lighthouse has a mask yet; give a box" in said.err
    assert (tmp_path / "pair" / PAGE).is_file()


def test_a_failing_model_leaves_nothing_behind(rendered, tmp_path):
    def failing(jobs, progress):
        raise OSError("the card fell out")

    with pytest.raises(OSError, match="fell out"):
        prepare(bare(rendered), tmp_path / "pair", templates_writer(), failing, SETTINGS, silent)
    assert list(tmp_path.iterdir()) == []


def test_a_users_text_is_inert_on_the_sheet(rendered, tmp_path):
    """Names and captions with markup appear as they are written, and the page allows no scripts."""
    (tmp_path / "cat").mkdir()
    for prefix in ("", "mask_"):
        shutil.copy(rendered / "cat" / f"{prefix}a00.png", tmp_path / "cat" / f"{prefix}<img src=x onerror=alert(1)>.png")
    (tmp_path / "cat" / "\x1b[31m\udcff.txt").write_text("")
    plain = templates_writer()
    writer = Writer(**{**vars(plain), "caption": lambda image, phrase: f"{phrase} <script>alert(1)</script> {{{{7*7}}}}"})
    prepared = prepare(
        {"cat": tmp_path / "cat", "dog": rendered / "dog"}, tmp_path / "pair", writer, never, WITHOUT_MODELS, silent
    )  # fmt: skip
    page = (tmp_path / "pair" / PAGE).read_text()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; {{7*7}}" in page
    assert "default-src 'none'" in page
    assert "http" not in page.replace("http-equiv", "")
    assert all(line.isprintable() for line in summary(prepared))
    assert shown("\x1b[31m\udcff.txt") == "\\x1b[31m\\udcff.txt"
    assert Image.open(tmp_path / "pair" / PICTURE).width > 1000


@pytest.mark.slow
def test_ray_makes_the_masks_that_a_plain_loop_makes(rendered, tmp_path):
    """Ten photos in batches of at most eight, on one worker: the same bytes, boxes and doubts."""
    from pipeline.cluster import connected
    from pipeline.config import Cluster, Pool
    from pipeline.prepare_masks import MaskJob
    from pipeline.sweep import mask_all

    jobs = [
        MaskJob(photo=str(path), query=key, box=(5.0, 5.0, 40.0, 40.0) if path.name.endswith("2.png") else None)
        for key, folder in bare(rendered).items()
        for path in sorted(folder.iterdir())
    ]
    cluster = Cluster(address="local", cpus=2, detect=Pool(actors=1), max_failed_share=0.0)
    with connected(cluster):
        on_ray = mask_all(SETTINGS, jobs, silent, cluster)
    assert on_ray == in_this_process(SETTINGS, jobs, silent)
