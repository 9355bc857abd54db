"""Pixels as a camera or editor stored them become upright sRGB of 8 bits, by numbers that can be worked out by hand."""

import io

import numpy as np
import pytest
from bad_photos import encoded, mask, photo, profile, sideways
from PIL import Image, ImageCms

from mudi.user_files.file_kinds import recognise
from mudi.user_files.photos import read_image, read_mask

RED_FOR_GREEN = profile(rXYZ=b"gXYZ", gXYZ=b"rXYZ")


@pytest.fixture
def stored(tmp_path):
    def store(content: bytes):
        path = tmp_path / "photo.png"
        path.write_bytes(content)
        return path

    return store


def plain(colour, mode="RGB", **options) -> bytes:
    return encoded(Image.new(mode, (16, 20), colour), "PNG", **options)


@pytest.mark.parametrize(
    ("level", "expected"), [(0, 0), (128, 0), (129, 1), (257, 1), (385, 1), (386, 2), (32767, 127), (32896, 128), (65535, 255)]
)
def test_16_bit_grey_is_divided_by_257_and_rounded(stored, level, expected):
    """65535 / 255 = 257. 128 / 257 = 0.498 and 129 / 257 = 0.502; 385 / 257 = 1.498 and 386 / 257 = 1.502;
    32767 / 257 = 127.498; 32896 = 128 * 257."""
    path = stored(encoded(Image.fromarray(np.full((20, 16), level, np.uint16)), "PNG"))
    assert (read_image(path) == expected).all()


def test_a_16_bit_mask_is_cut_at_half_of_its_range(stored):
    """33024 / 257 = 128.498 is 128 and thus outside; 33025 / 257 = 128.502 is 129."""
    levels = np.full((20, 16), 33024, np.uint16)
    levels[:, 8:] = 33025
    assert np.array_equal(read_mask(stored(encoded(Image.fromarray(levels), "PNG")), (20, 16)), levels == 33025)


def test_an_embedded_profile_decides_what_the_numbers_mean(stored):
    """In a profile whose red is sRGB's green and whose green is sRGB's red, pure red shows as pure green."""
    read = read_image(stored(plain((255, 0, 0), icc_profile=RED_FOR_GREEN))).astype(int)
    assert np.abs(read - (0, 255, 0)).max() <= 1
    assert np.abs(read_image(stored(plain((200, 100, 50), icc_profile=RED_FOR_GREEN))).astype(int) - (100, 200, 50)).max() <= 1


def test_a_profile_applies_beside_transparency_and_in_palettes(stored):
    """Opaque pixels are converted, transparent ones are white."""
    pixels = np.full((20, 16, 4), (255, 0, 0, 255), np.uint8)
    pixels[:, 8:, 3] = 0
    read = read_image(stored(encoded(Image.fromarray(pixels), "PNG", icc_profile=RED_FOR_GREEN))).astype(int)
    assert np.abs(read[:, :8] - (0, 255, 0)).max() <= 1
    assert (read[:, 8:] == 255).all()
    palette = encoded(Image.new("RGB", (16, 20), (255, 0, 0)).quantize(4), "PNG", icc_profile=RED_FOR_GREEN)
    assert np.abs(read_image(stored(palette)).astype(int) - (0, 255, 0)).max() <= 1


def test_a_wider_gamut_gets_other_numbers_of_the_same_colour(stored):
    """Display P3's published matrix: its (200, 100, 100) is, in sRGB, what 3x3 arithmetic on linear light gives."""
    primaries = np.array([[0.48657, 0.26567, 0.19822], [0.22897, 0.69174, 0.07929], [0.0, 0.04511, 1.04394]])
    to_xyz = np.array([[0.41239, 0.35758, 0.18048], [0.21264, 0.71517, 0.07219], [0.01933, 0.11919, 0.95053]])
    light = np.array([200, 100, 100]) / 255
    light = np.where(light <= 0.04045, light / 12.92, ((light + 0.055) / 1.055) ** 2.4)
    light = np.linalg.solve(to_xyz, primaries @ light)
    expected = 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    read = read_image(stored(plain((200, 100, 100), icc_profile=display_p3())))[0, 0]
    assert np.abs(read - expected).max() <= 1, (read, expected)
    assert read[0] > 205


def display_p3() -> bytes:
    """sRGB's profile with the colorants of Display P3, adapted to D50 as Apple publishes them, as 16.16 fixed point."""
    content = bytearray(profile())
    colorants = {b"rXYZ": (0.51512, 0.24120, -0.00105), b"gXYZ": (0.29198, 0.69225, 0.04189), b"bXYZ": (0.15710, 0.06657, 0.78407)}
    for name, values in colorants.items():
        entry = content.index(name, 128)
        start = int.from_bytes(content[entry + 4 : entry + 8], "big")
        content[start + 8 : start + 20] = b"".join(round(value * 65536).to_bytes(4, "big", signed=True) for value in values)
    return bytes(content)


def test_what_says_it_is_srgb_stays_bit_by_bit(stored):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert np.array_equal(read_image(stored(encoded(photo(), "PNG", icc_profile=srgb))), np.asarray(photo()))


def test_a_profile_of_other_pixels_is_ignored_as_browsers_do(stored):
    """Grey stays grey under a profile of colours."""
    assert (read_image(stored(plain(77, mode="L", icc_profile=RED_FOR_GREEN))) == 77).all()


def test_a_masks_values_are_no_colours(stored):
    """Red of 255 is grey 76 and outside; under the profile it would be green, grey 150, and inside."""
    image = np.zeros((20, 16, 3), np.uint8)
    image[:, :8] = (255, 0, 0)
    image[:, 8:] = 255
    read = read_mask(stored(encoded(Image.fromarray(image), "PNG", icc_profile=RED_FOR_GREEN)), (20, 16))
    assert np.array_equal(read, image.min(axis=2) == 255)


def test_orientation_6_is_turned_clockwise(stored):
    """A picture stored 320x256 comes up 256x320, its first row the stored left column from the bottom."""
    path = stored(sideways())
    with Image.open(io.BytesIO(sideways())) as image:
        as_stored = np.asarray(image.convert("RGB"))
    assert np.array_equal(read_image(path), np.rot90(as_stored, -1))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_what_is_read_is_not_taken_for_something_else(form):
    for image in (photo(), mask()):
        assert recognise(encoded(image, form)) is None
