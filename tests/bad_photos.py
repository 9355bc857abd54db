"""A sound combination folder, and one of every kind of photo and mask that a run refuses, repairs or remarks on."""

import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms
from PIL.PngImagePlugin import PngInfo

HEADER = {"id": {"a": "olis corgi", "b": "hta chow chow"}}
WIDTH, HEIGHT = 320, 256


def entry(key: str, number: int, **changes) -> dict:
    """The line of one photo, as published; a change to None leaves the key out."""
    name = f"{key}{number:02}.png"
    line = {"id": key, "file_name": name, "mask_path": f"mask_{name}", "text": f"A photo of a {HEADER['id'][key]}."} | changes
    return {name: value for name, value in line.items() if value is not None}


def photo(number: int = 0, width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """Smooth, so that files are small; every `number` gives another picture."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x % 256, y % 256, (x + y + 7 * number) % 256], axis=-1).astype(np.uint8))


def mask(width: int = WIDTH, height: int = HEIGHT) -> Image.Image:
    """White in the middle half of both sides."""
    levels = np.zeros((height, width), np.uint8)
    levels[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = 255
    return Image.fromarray(levels)


def write(folder: Path, *lines: dict | str | bytes) -> None:
    """metadata.jsonl of these lines."""
    encoded = [line if isinstance(line, bytes) else (line if isinstance(line, str) else json.dumps(line)).encode() for line in lines]
    (folder / "metadata.jsonl").write_bytes(b"\n".join(encoded) + b"\n")


def pair(parent: Path) -> Path:
    """The folder "pair" of two subjects with two photos and masks each, without anything to remark on."""
    folder = parent / "pair"
    folder.mkdir()
    for place, (key, number) in enumerate([("a", 0), ("a", 1), ("b", 0), ("b", 1)]):
        photo(place).save(folder / f"{key}{number:02}.png")
        mask().save(folder / f"mask_{key}{number:02}.png")
    write(folder, HEADER, *(entry(key, number) for key in "ab" for number in range(2)))
    return folder


def encoded(image: Image.Image, form: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=form, **options)
    return buffer.getvalue()


def cut(form: str) -> bytes:
    whole = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)), form)
    return whole[: len(whole) // 2]


def wrong_checksum() -> bytes:
    """A PNG whose header's CRC has one bit flipped; the header's data begin at byte 16 and have 13 bytes."""
    content = bytearray(encoded(photo(), "PNG"))
    content[29] ^= 1
    return bytes(content)


def header_of_png(width: int, height: int) -> bytes:
    """A PNG that claims a size and has no pixels."""
    size = b"IHDR" + struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    chunks = [struct.pack(">I", len(data) - 4) + data + struct.pack(">I", zlib.crc32(data)) for data in (size, b"IDAT", b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def text_bomb() -> bytes:
    """A PNG with 8 MB of zeros in a compressed comment."""
    comment = PngInfo()
    comment.add_text("comment", "0" * 8_000_000, zip=True)
    return encoded(photo(), "PNG", pnginfo=comment)


def profile(**swaps: bytes) -> bytes:
    """sRGB's profile under another name, with entries of its table exchanged, such as rXYZ=b"gXYZ", gXYZ=b"rXYZ"."""
    content = (
        ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes().replace("sRGB".encode("utf-16-be"), "test".encode("utf-16-be"))
    )
    table = content[128:300]
    for name in swaps:
        table = table.replace(name.encode(), name.upper().encode())
    for name, other in swaps.items():
        table = table.replace(name.upper().encode(), other)
    return content[:128] + table + content[300:]


def sideways() -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return encoded(photo(), "JPEG", exif=exif)


def two_frames(form: str) -> bytes:
    return encoded(photo(), form, save_all=True, append_images=[photo(1)])


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)
# Kind, the file's bytes, words of the answer. Each stands in place of b01.png.
PHOTOS: tuple[tuple[str, Callable[[], bytes], tuple[str, ...]], ...] = (
    ("zero bytes", lambda: b"", ("empty file, 0 bytes", "copy it again")),
    ("a web page saved as a photo", lambda: b"<!DOCTYPE html><html>404</html>", ("a web page", "download the file itself")),
    ("a Git LFS pointer", lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", ('run "git lfs pull"',)),
    ("a HEIC photo of a phone", lambda: HEIC, ("a HEIC photo", "export it as JPEG", "pillow-heif")),
    ("an AVIF", lambda: HEIC.replace(b"ftypheic", b"ftypavif"), ("an AVIF photo", "export it as JPEG")),
    ("a video", lambda: HEIC.replace(b"ftypheic", b"ftypisom"), ("a video", "one frame")),
    ("an SVG", lambda: b'<?xml version="1.0"?>\n<svg width="9"/>', ("an SVG drawing", "as PNG")),
    ("a PDF", lambda: b"%PDF-1.7", ("a PDF", "as PNG or JPEG")),
    ("a GIF", lambda: encoded(photo(), "GIF"), ("a GIF", "export one frame")),
    ("a TIFF", lambda: encoded(photo(), "TIFF"), ("a TIFF", "as PNG or JPEG")),
    ("a BMP", lambda: encoded(photo(), "BMP"), ("a BMP", "as PNG or JPEG")),
    ("a ZIP archive", lambda: b"PK\x03\x04" + bytes(40), ("a ZIP archive",)),
    ("a text", lambda: b"to be replaced", ("no known image", "whole JPEG, PNG or WEBP")),
    ("a JPEG cut in half", lambda: cut("JPEG"), ("cannot read the image", "whole JPEG")),
    ("a PNG cut in half", lambda: cut("PNG"), ("cannot read the image", "whole JPEG, PNG")),
    ("a WebP cut in half", lambda: cut("WEBP"), ("cannot read the image", "WEBP")),
    ("a PNG with a wrong checksum", wrong_checksum, ("cannot read the image", "checksum")),
    ("an animated PNG", lambda: two_frames("PNG"), ("2 frames", "export one")),
    ("an animated WebP", lambda: two_frames("WEBP"), ("2 frames", "export one")),
    ("a decompression bomb of 30000x30000", lambda: header_of_png(30_000, 30_000), ("30000x30000 pixels, more than 40 million",)),
    ("42 megapixels", lambda: header_of_png(7000, 6000), ("7000x6000 pixels, more than 40 million",)),
    ("a PNG with a compressed comment of 8 MB", text_bomb, ("cannot read the image", "too large")),
    ("1x1", lambda: encoded(photo(0, 1, 1), "PNG"), ("1x1 pixels, a side below 16",)),
    ("1x4000", lambda: encoded(photo(0, 1, 4000), "PNG"), ("1x4000 pixels, a side below 16",)),
    ("16x4000", lambda: encoded(photo(0, 16, 4000), "PNG"), ("16x4000 pixels", "10 times")),
    ("a broken colour profile", lambda: encoded(photo(), "PNG", icc_profile=b"x" * 200), ("colour profile is broken", "sRGB")),
    ("the bytes of another photo of the subject", lambda: encoded(photo(2), "PNG"), ("the same bytes as b00.png", "remove one")),
)
# The same for mask_b01.png.
MASKS: tuple[tuple[str, Callable[[], bytes], tuple[str, ...]], ...] = (
    ("a mask of another size", lambda: encoded(mask(300, 200), "PNG"), ("the mask is 300x200 but its photo 320x256",)),
    ("a black mask", lambda: encoded(Image.new("L", (WIDTH, HEIGHT)), "PNG"), ("empty", "paint the subject white")),
    ("a mask of grey 128", lambda: encoded(Image.new("L", (WIDTH, HEIGHT), 128), "PNG"), ("empty, its brightest value is 128",)),
    ("a white mask", lambda: encoded(Image.new("L", (WIDTH, HEIGHT), 255), "PNG"), ("covers the whole photo",)),
    ("a mask cut in half", lambda: cut("PNG"), ("cannot read the image",)),
    ("a mask with the bytes of its photo", lambda: encoded(photo(3), "PNG"), ("has the bytes of its photo",)),
)


def lossy_mask() -> bytes:
    """A JPEG whose edges lie within its blocks of 8 by 8 pixels."""
    return encoded(mask().transform((WIDTH, HEIGHT), Image.Transform.AFFINE, (1, 0, 3, 0, 1, 3)), "JPEG")


def spots(*boxes: tuple[int, int, int, int]) -> bytes:
    levels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for x0, y0, x1, y1 in boxes:
        levels[y0:y1, x0:x1] = 255
    return encoded(Image.fromarray(levels), "PNG")


def put(**files: Callable[[], bytes]) -> Callable[[Path], None]:
    """Other bytes in place of the folder's files, by their names without ".png"."""

    def replace(folder: Path) -> None:
        for name, make in files.items():
            (folder / f"{name}.png").write_bytes(make())

    return replace


def without_b01(folder: Path) -> None:
    for name in ("b01.png", "mask_b01.png"):
        (folder / name).unlink()
    write(folder, HEADER, entry("a", 0), entry("a", 1), entry("b", 0))


def weighted(folder: Path) -> None:
    write(folder, HEADER, entry("a", 0), entry("a", 1), entry("b", 0), entry("b", 1, text="a hta (chow chow:1.3)"))


def small(image: Image.Image) -> Callable[[], bytes]:
    return lambda: encoded(image.crop((0, 0, 100, 160)), "PNG")


# Kind, what is done to a sound folder, words of the note; the folder is accepted.
REMARKS: tuple[tuple[str, Callable[[Path], None], tuple[str, ...]], ...] = (
    ("a photo of one colour", put(b01=lambda: encoded(Image.new("RGB", (WIDTH, HEIGHT)), "PNG")), ("all one colour, (0, 0, 0)",)),
    (
        "a small photo",
        put(b01=small(photo(3)), mask_b01=small(mask())),
        ("100x160 pixels, a side below 256",),
    ),
    ("a mask of less than 1 % of the photo", put(mask_b01=lambda: spots((0, 0, 20, 20))), ("covers 0.49 % of the photo",)),
    ("a mask in two parts", put(mask_b01=lambda: spots((0, 0, 60, 60), (90, 90, 150, 150))), ("in 2 parts",)),
    ("a lossy mask", put(mask_b01=lossy_mask), ("between black and white", "128")),
    ("one photo for both subjects", put(b01=lambda: encoded(photo(0), "PNG")), ('the same bytes as a00.png of "a"',)),
    ("a subject with one photo", without_b01, ('only one photo of "b"',)),
    ("weights in a caption", weighted, ("'(chow chow:1.3)'", "read as words")),
)
