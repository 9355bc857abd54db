"""Edits and calls that `prepare` refuses, what a failure leaves, and names that come from users."""

import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from prepared_photos import SETTINGS, WITHOUT_MODELS, bare, contents, edit, never, save, silent

from jobs import entry
from jobs.prepare import prepare as verb
from pipeline.prepare.contact_sheet import PAGE, PICTURE
from pipeline.prepare.prepare import prepare
from pipeline.prepare.record import printable
from pipeline.prepare.text import summary
from pipeline.prepare.writer import Writer, templates_writer
from pipeline.settings.config import Cluster, Slot
from pipeline.workers.masks import MaskJob, mask_all


@pytest.fixture(scope="module")
def prepared_once(rendered, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "pair"
    prepare({"cat": rendered / "cat", "dog": rendered / "dog"}, out, templates_writer(), never, WITHOUT_MODELS, silent)
    return out


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
    assert "mask from the source folder; box and points in subjects.yaml are not used" in (out / PAGE).read_text()
    Image.fromarray((np.indices((48, 48))[0] < 20).astype(np.uint8) * 255).save(out / "mask_dog00.png")
    painted = prepare({}, out, templates_writer(), never, WITHOUT_MODELS, silent)
    assert any("not used: box and points of dog00.png, whose mask was painted by hand" in line for line in summary(painted))
    assert "mask painted by hand; box and points in subjects.yaml are not used" in (out / PAGE).read_text()


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
    assert printable("\x1b[31m\udcff.txt") == "\\x1b[31m\\udcff.txt"
    assert Image.open(tmp_path / "pair" / PICTURE).width > 1000


@pytest.mark.slow
def test_ray_makes_the_masks_that_this_process_makes(rendered, tmp_path):
    """Ten photos in batches of at most eight, on one worker: the same bytes, boxes and doubts."""
    from jobs.driver import started

    jobs = [
        MaskJob(photo=str(path), query=key, box=(5.0, 5.0, 40.0, 40.0) if path.name.endswith("2.png") else None)
        for key, folder in bare(rendered).items()
        for path in sorted(folder.iterdir())
    ]
    made = []
    for cluster in (Cluster(address="none"), Cluster(address="local", cpus=1, workers=Slot(count=1))):
        with started(cluster) as (do, _):
            made.append(mask_all(do, SETTINGS, jobs, silent))
    assert made[0] == made[1]
