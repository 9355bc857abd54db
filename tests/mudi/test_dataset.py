"""Folders become combinations: what is accepted, and one clear line for each thing that is not."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from mudi.dataset import DETECTION_QUERIES, check_images, examine, load_combination, load_segments, require_objects
from mudi.layout import boxes_of
from mudi.user_files.photos import read_image, read_mask

BENCHMARK = Path(__file__).parents[3] / "shared" / "mudi-benchmark"
needs_benchmark = pytest.mark.skipif(not BENCHMARK.is_dir(), reason=f"the published folders are not at {BENCHMARK}")
HEADER = {"id": {"a": "olis corgi", "b": "hta chow chow"}}
WIDTH, HEIGHT = 24, 16


def entry(key: str, **changes) -> dict:
    listed = {"id": key, "file_name": f"{key}.png", "mask_path": f"mask_{key}.png", "text": f"A photo of a {HEADER['id'][key]}."}
    return listed | changes


def gradient() -> Image.Image:
    """A photo whose every pixel differs, so that no rotation or flip goes unnoticed."""
    y, x = np.mgrid[:HEIGHT, :WIDTH].astype(np.uint8)
    return Image.fromarray(np.stack([10 * x, 10 * y, x + y], axis=-1))


def corner_mask() -> Image.Image:
    """White in the upper left 4 x 3 pixels."""
    mask = np.zeros((HEIGHT, WIDTH), dtype=np.uint8)
    mask[:3, :4] = 255
    return Image.fromarray(mask)


@pytest.fixture
def folder(tmp_path) -> Path:
    """A complete combination of two subjects with one photo each."""
    folder = tmp_path / "dogs"
    folder.mkdir()
    for key in HEADER["id"]:
        gradient().save(folder / f"{key}.png")
        corner_mask().save(folder / f"mask_{key}.png")
    write(folder, HEADER, entry("a"), entry("b"))
    return folder


def write(folder: Path, *lines) -> None:
    (folder / "metadata.jsonl").write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))


def failure(call, *arguments) -> str:
    """The one line that `call` fails with."""
    with pytest.raises(ValueError, match=r"\A[^\n]+\Z") as caught:
        call(*arguments)
    return str(caught.value)


def test_a_folder_is_read_as_published(folder):
    combination = load_combination(folder)
    a, b = combination.subjects
    assert combination.key == "dogs"
    assert (a.key, a.identifier, a.class_noun, a.detection_query) == ("a", "olis", "corgi", "dog")
    assert (b.key, b.identifier, b.class_noun, b.detection_query) == ("b", "hta", "chow chow", "dog")
    assert a.references[0].caption == "A photo of a olis corgi."
    check_images(combination)
    (segment,) = load_segments(a)
    assert np.array_equal(segment.image, np.asarray(gradient()))
    assert np.array_equal(np.argwhere(segment.mask).max(axis=0), (2, 3))


def test_the_key_is_the_folder_name_however_it_is_reached(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert load_combination(Path(".")).key == load_combination(folder / ".." / "dogs").key == "dogs"


def test_byte_order_mark_and_blank_lines_are_accepted(folder):
    lines = "\r\n\r\n".join(json.dumps(line) for line in (HEADER, entry("a"), entry("b")))
    (folder / "metadata.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.encode() + b"\r\n")
    assert [len(subject.references) for subject in load_combination(folder).subjects] == [1, 1]


def test_a_query_is_taken_from_the_argument_then_the_header_then_the_table_then_the_last_word(folder):
    header = {"id": {"a": "olis corgi", "b": "hta garden gnome"}, "query": {"a": "puppy"}}
    write(folder, header, entry("a"), entry("b", text="a hta garden gnome"))
    assert [subject.detection_query for subject in load_combination(folder).subjects] == ["puppy", "gnome"]
    assert [subject.detection_query for subject in load_combination(folder, {"a": "animal"}).subjects] == ["animal", "gnome"]


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        ([], ["metadata.jsonl:", "empty"]),
        ([entry("a"), entry("b")], [":1:", "header"]),
        ([HEADER | {"querys": {}}, entry("a")], [":1:", "header"]),
        ([{"id": {"a": "olis corgi"}}, entry("a")], [":1:", "two or more"]),
        ([{"id": {"a": "olis corgi", "b": "OLIS dog"}}], [":1:", "OLIS", "its own"]),
        ([{"id": {"a": "olis corgi", "b": "hta"}}], [":1:", '"hta"', "class"]),
        ([{"id": {"a": "olis corgi", "../b": "hta dog"}}], [":1:", "../b"]),
        (['{"id": {"a": "olis corgi", "a": "hta dog"}}'], [":1:", "twice"]),
        ([HEADER | {"query": {"c": "dog"}}, entry("a"), entry("b")], [":1:", "a, b"]),
        ([HEADER, entry("a")], [":1:", '"b"', "no photo"]),
        ([HEADER, entry("a"), "", "{'id': 'b'}"], [":4:", "JSON"]),
        ([HEADER, entry("a"), "[" * 200_000], [":3:", "JSON"]),
        ([HEADER, entry("a"), "[1]"], [":3:", "[1]"]),
        ([HEADER, entry("a", id="c")], [":2:", '"c"', "a, b"]),
        ([HEADER, entry("a", id=["a"])], [":2:", '"id"']),
        ([HEADER, entry("a", text="")], [":2:", '"text"']),
        ([HEADER, entry("a", text="A photo of a corgi.")], [":2:", '"text"', "olis"]),
        ([HEADER, entry("a"), entry("a")], [":3:", "a.png", "twice"]),
        ([HEADER, entry("a", file_name="z.jpg")], [":2:", "z.jpg", "no such file"]),
        ([HEADER, entry("a", mask_path="mask_z.jpg")], [":2:", "mask_z.jpg", "no such file"]),
        ([HEADER, entry("a", mask_path="a.png")], [":2:", "the photo itself"]),
        ([HEADER, entry("a", file_name="/etc/hostname")], [":2:", "/etc/hostname", "outside"]),
        ([HEADER, entry("a", file_name="../dogs/a.png")], [":2:", "../dogs/a.png", "outside"]),
        ([HEADER, entry("a", file_name="a\x00.png")], [":2:", "file_name", "control"]),
        ([HEADER, entry("a", file_name="\ud800.png")], [":2:", "file_name", "Unicode"]),
        ([HEADER, entry("a", file_name="a" * 1000)], [":2:", "file_name", "no path", "too long"]),
    ],
)
def test_broken_metadata_is_named_by_line(folder, lines, parts):
    write(folder, *lines)
    message = failure(load_combination, folder)
    assert all(part in message for part in [str(folder / "metadata.jsonl"), *parts]), message


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    gradient().save(tmp_path / "elsewhere.png")
    (folder / "link.png").symlink_to(tmp_path / "elsewhere.png")
    write(folder, HEADER, entry("a", file_name="link.png"), entry("b"))
    assert "outside the folder" in failure(load_combination, folder)


def test_missing_folders_files_and_encodings_are_named(folder):
    assert "no such folder" in failure(load_combination, folder / "cats")
    (folder / "metadata.jsonl").write_bytes(json.dumps(HEADER).encode("utf-16"))
    assert "save the file as UTF-8" in failure(load_combination, folder)
    (folder / "metadata.jsonl").unlink()
    assert "metadata.jsonl: no such file" in failure(load_combination, folder)


def test_a_folder_name_that_cannot_name_a_run_is_refused(folder):
    assert "rename it" in failure(load_combination, folder.rename(folder.with_name("my dogs")))


def test_queries_for_unknown_subjects_are_refused(folder):
    assert 'queries of "dogs"' in failure(load_combination, folder, {"c": "dog"})
    assert 'queries of "dogs"' in failure(load_combination, folder, {"a": ""})


def cut_in_half(path: Path, **options) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    noise.save(path, **options)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


BROKEN_PHOTOS = {
    "zero bytes": lambda path: path.write_bytes(b""),
    "a web page": lambda path: path.write_text("<html>404</html>"),
    "a cut JPEG": lambda path: cut_in_half(path, format="JPEG"),
    "a cut PNG": lambda path: cut_in_half(path, format="PNG"),
    "a cut WEBP": lambda path: cut_in_half(path, format="WEBP"),
    "a GIF": lambda path: gradient().save(path, format="GIF"),
    "an animation": lambda path: gradient().save(path, format="PNG", save_all=True, append_images=[corner_mask().convert("RGB")]),
    "42 megapixels": lambda path: Image.new("1", (7000, 6000)).save(path, format="PNG"),
    "a decompression bomb": lambda path: Image.new("1", (20_000, 10_000)).save(path, format="PNG"),
}


@pytest.mark.parametrize("fault", BROKEN_PHOTOS)
def test_an_unreadable_photo_is_named(folder, fault):
    BROKEN_PHOTOS[fault](folder / "b.png")
    assert failure(check_images, load_combination(folder)).startswith(f"{folder / 'b.png'}: cannot read the image")


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (np.zeros((HEIGHT, WIDTH), np.uint8), "the mask is empty, its brightest value is 0"),
        (np.full((HEIGHT, WIDTH), 128, np.uint8), "the mask is empty, its brightest value is 128"),
        (np.full((HEIGHT, WIDTH), 255, np.uint8), "covers the whole photo"),
        (np.full((HEIGHT + 1, WIDTH), 255, np.uint8), "the mask is 24x17 but its photo 24x16"),
        (np.full((WIDTH, HEIGHT), 255, np.uint8), "the mask is 16x24 but its photo 24x16"),
    ],
)
def test_an_unusable_mask_is_named(folder, mask, reason):
    Image.fromarray(mask).save(folder / "mask_a.png")
    message = failure(check_images, load_combination(folder))
    assert message.startswith(f"{folder / 'mask_a.png'}: ")
    assert reason in message


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photo_and_mask_are_turned_together(folder, orientation):
    """A mask cut from the stored pixels marks the same pixels after both are turned upright. Where turning keeps
    the size (1 to 4) nothing but the mask's own EXIF tells that it was drawn on the stored pixels."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    gradient().save(folder / "a.png", exif=exif)
    corner_mask().save(folder / "mask_a.png", exif=exif if orientation < 5 else Image.Exif())
    (turned,) = load_segments(load_combination(folder).subjects[0])
    stored = np.asarray(gradient())
    assert turned.image.shape == ((HEIGHT, WIDTH, 3) if orientation < 5 else (WIDTH, HEIGHT, 3))
    assert np.array_equal(np.unique(turned.image[turned.mask], axis=0), np.unique(stored[:3, :4].reshape(-1, 3), axis=0))


def test_a_mask_drawn_on_the_upright_photo_is_left_alone(tmp_path):
    upright = corner_mask().transpose(Image.Transpose.ROTATE_90)
    upright.save(tmp_path / "mask.png")
    assert np.array_equal(read_mask(tmp_path / "mask.png", (WIDTH, HEIGHT), orientation=6), np.asarray(upright) > 128)


def test_transparency_shows_white_in_photos_and_black_in_masks(tmp_path):
    """Half of the picture is white and opaque; the other hides red under full transparency."""
    pixels = np.full((16, 20, 4), 255, dtype=np.uint8)
    pixels[:, 10:] = (255, 0, 0, 0)
    Image.fromarray(pixels).save(tmp_path / "cutout.png")
    assert (read_image(tmp_path / "cutout.png") == 255).all()
    assert np.array_equal(read_mask(tmp_path / "cutout.png", (16, 20)), pixels[..., 3] > 0)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK"])
def test_photos_of_any_8_bit_mode_become_rgb(tmp_path, mode):
    path = tmp_path / ("photo.jpg" if mode == "CMYK" else "photo.png")
    grey = Image.fromarray(np.repeat(np.uint8([[0, 255]]), 16, axis=0).repeat(8, axis=1)).convert("RGB")
    grey.convert(mode).save(path)
    assert np.abs(read_image(path).astype(int) - np.asarray(grey)).max() <= 3


def test_the_photo_of_a_phone_file_with_a_preview_is_read(tmp_path):
    gradient().resize((64, 64)).save(tmp_path / "phone.jpg", format="MPO", save_all=True, append_images=[corner_mask().convert("RGB")])
    assert read_image(tmp_path / "phone.jpg").shape == (64, 64, 3)


@needs_benchmark
def test_every_published_folder_loads():
    counts = {}
    for folder in sorted(path for path in BENCHMARK.iterdir() if path.is_dir()):
        combination = load_combination(folder)
        counts[combination.key] = [len(subject.references) for subject in combination.subjects]
        for subject in combination.subjects:
            assert subject.class_noun in DETECTION_QUERIES
            assert all(subject.phrase in reference.caption for reference in subject.references)
    assert len(counts) == 9
    assert counts.pop("count_ablation") == [5] * 5
    assert counts.pop("scene_castle_and_scene_lighthouse") == [5, 4], "b03.jpg is neither published nor listed"
    assert set(map(tuple, counts.values())) == {(5, 5)}


@needs_benchmark
def test_every_published_photo_and_mask_is_usable():
    """104 photos, none with a mistake; every subject fills at least a twentieth of its photo and never two thirds of it."""
    covered = {}
    for folder in sorted(path for path in BENCHMARK.iterdir() if path.is_dir()):
        for subject in load_combination(folder).subjects:
            assert [examined.mistake for examined in examine(subject) if examined.mistake] == []
            for reference, segment in zip(subject.references, load_segments(subject), strict=True):
                assert segment.image.shape[:2] == segment.mask.shape
                covered[reference.image_path] = segment.mask.mean()
    assert len(covered) == 25 + 9 + 7 * 10
    assert 0.05 < min(covered.values()) < max(covered.values()) < 2 / 3


def test_a_style_is_a_subject_that_no_box_holds(tmp_path):
    """ "query": null makes a style: it keeps photo and words, has no box in a layout, and MuDI, which cuts out, refuses it."""
    folder = Path(shutil.copytree("jobs/configs/miniature/two_dogs", tmp_path / "pair"))
    lines = (folder / "metadata.jsonl").read_text().splitlines()
    header = json.loads(lines[0]) | {"query": {"b": None}, "layouts": [{"a": [0, 0, 512, 1024]}]}
    (folder / "metadata.jsonl").write_text("\n".join([json.dumps(header), *lines[1:]]))
    pair = load_combination(folder)
    assert [subject.key for subject in pair.subjects] == ["a", "b"]
    assert [subject.key for subject in pair.objects] == ["a"]
    assert boxes_of(pair) == [[(0.0, 0.0, 512.0, 1024.0)]]
    with pytest.raises(ValueError, match="style"):
        require_objects(pair, "mudi")
    (folder / "metadata.jsonl").write_text("\n".join([json.dumps(header | {"query": {"a": None, "b": None}}), *lines[1:]]))
    with pytest.raises(ValueError, match="null for every subject"):
        load_combination(folder)
