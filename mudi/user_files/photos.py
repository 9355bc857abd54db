"""Photos and masks as a user's camera and editor left them, to upright arrays; what cannot be is a ValueError of one line.

Read are JPEG, PNG and WebP. Of other things this is done to them: EXIF rotation is applied; transparent parts become
white in photos and black in masks; 16 bits a channel become 8 (grey: value / 257, rounded; colours: their high byte,
as Pillow reads them); a photo with an embedded colour profile, such as Display P3 from a phone or that of a CMYK
print, is converted to sRGB (perceptual intent, clipped to what sRGB holds); CMYK without a profile by Pillow's
formula; of a phone's file with a preview (MPO) the first picture is taken. A profile for another kind of pixels than
the file's is ignored, as browsers do, and a mask's profile too, since its values are no colours.
"""

import io
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageCms
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from mudi.user_files.file_kinds import HEAD, recognise

# Pillow's reader by a file's first bytes. `Image.open` would try 43 formats, and warns of large files on stderr.
READERS = {b"\xff\xd8\xff": JpegImageFile, b"\x89PNG\r\n\x1a\n": PngImageFile, b"RIFF": WebPImageFile}
FORMATS = ("JPEG", "PNG", "WEBP")
LARGEST_PHOTO = 40_000_000  # pixels
SMALLEST_SIDE = 16
LARGEST_ASPECT = 10
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK")
SIXTEEN_BIT_MODES = ("I;16", "I;16B", "I;16L", "I")
MASK_THRESHOLD = 128
# All that Pillow raised on 21,000 cut and corrupted files of the three formats, and what is refused here.
BROKEN_IMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
# How a viewer undoes each EXIF orientation; 5 to 8 exchange width and height.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
FIRST_SIDEWAYS = 5
# Modes of the pixels that a profile of each colour space can speak of.
PROFILED = {"RGB": ("RGB", "RGBA"), "CMYK": ("CMYK",), "GRAY": ("L",)}


def read_image(path: Path) -> np.ndarray:
    """A photo as uint8 (H, W, 3), upright by its EXIF orientation, in sRGB, transparent parts on white."""
    return flatten(decode(path)[0], "RGB", "white")


def read_mask(path: Path, size: tuple[int, int], orientation: int = 1) -> np.ndarray:
    """A mask as bool (H, W), true above 128; `size` and `orientation` as in `mask_levels`."""
    return threshold(path, mask_levels(path, size, orientation))


def read_both(path: Path, mask: Path | None) -> tuple[np.ndarray, np.ndarray | None]:
    """The upright photo, uint8 (H, W, 3), and its mask turned with it, bool (H, W), if it has one."""
    photo, orientation = decode(path)
    return flatten(photo, "RGB", "white"), mask and read_mask(mask, (photo.height, photo.width), orientation)


def mask_levels(path: Path, size: tuple[int, int], orientation: int = 1) -> np.ndarray:
    """The grey levels of a mask, uint8 (H, W), where `size` is (H, W) of the upright photo.

    `orientation` is the photo's EXIF orientation. A mask drawn on the photo as stored has width and height
    exchanged and is turned like the photo; where this cannot be told from the size (180 degrees, square
    photos) the mask's own EXIF decides. The released code turns photos only.
    """
    height, width = size
    mask, _ = decode(path, colours=False)
    if mask.size == (height, width) and height != width and orientation >= FIRST_SIDEWAYS:
        mask = mask.transpose(UPRIGHT[orientation])
    if mask.size != (width, height):
        raise ValueError(f"{path}: the mask is {mask.width}x{mask.height} but its photo {width}x{height}; save it at the photo's size")
    return flatten(mask, "L", "black")


def threshold(path: Path, levels: np.ndarray) -> np.ndarray:
    """Where the grey levels of the mask at `path` are the subject; ValueError if that is nowhere or everywhere."""
    subject = levels > MASK_THRESHOLD
    if not subject.any():
        raise ValueError(f"{path}: the mask is empty, its brightest value is {levels.max()} of 255; paint the subject white")
    if subject.all():
        raise ValueError(f"{path}: the mask covers the whole photo; paint all but the subject black")
    return subject


def decode(path: Path, colours: bool = True) -> tuple[Image.Image, int]:
    """The image of 8 bits a channel, upright and in sRGB, and the EXIF orientation, 1 to 8, it is stored in.

    A file that was cut short passes Pillow's `verify`, so the pixels are always decoded. With `colours` false an
    embedded profile is ignored.
    """
    try:
        with path.open("rb") as file:
            head = file.read(HEAD)
            file.seek(0)
            if (kind := recognise(head)) is None:
                return _decode(file, head, colours)
    except BROKEN_IMAGE as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: cannot read the image ({reason}); replace it by a whole JPEG, PNG or WEBP of up to 40 MP") from error
    what, remedy = kind
    raise ValueError(f"{path}: cannot read the image (it is {what}); {remedy}")


def _decode(file: io.BufferedIOBase, head: bytes, colours: bool) -> tuple[Image.Image, int]:
    reader = next((reader for magic, reader in READERS.items() if head.startswith(magic)), None)
    if reader is None:
        raise ValueError("its first bytes are of no known image")
    with reader(file) as image:
        # Before the pixels: a small file can stand for gigabytes of them.
        _check_form(image)
        image.load()
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        if image.mode in SIXTEEN_BIT_MODES:
            upright = eight_bits(image)
        else:
            upright = to_srgb(image) if colours and "icc_profile" in image.info else image
    if orientation not in UPRIGHT:
        return upright, 1
    return upright.transpose(UPRIGHT[orientation]), orientation


def _check_form(image: Image.Image) -> None:
    width, height = image.size
    if width * height > LARGEST_PHOTO:
        raise ValueError(f"{width}x{height} pixels, more than 40 million")
    if min(width, height) < SMALLEST_SIDE:
        raise ValueError(f"{width}x{height} pixels, a side below {SMALLEST_SIDE}")
    if max(width, height) > LARGEST_ASPECT * min(width, height):
        raise ValueError(f"{width}x{height} pixels, one side more than {LARGEST_ASPECT} times the other; crop it")
    if getattr(image, "n_frames", 1) > 1:
        raise ValueError(f"{image.n_frames} frames; export one of them")
    if image.mode not in EIGHT_BIT_MODES + SIXTEEN_BIT_MODES:
        raise ValueError(f"pixels of mode {image.mode}; export 8 bits a channel")


def eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as grey of 8: 65535 / 255 = 257, so value / 257, rounded. Pillow's own conversion clips at 255."""
    levels = np.asarray(image).astype(np.int64)
    if levels.min() < 0 or levels.max() > 65535:
        raise ValueError(f"grey levels of {levels.min()} to {levels.max()}; export 8 bits a channel")
    return Image.fromarray(((levels + 128) // 257).astype(np.uint8))


def to_srgb(image: Image.Image) -> Image.Image:
    """The image with its embedded profile's colours in sRGB. Raises ValueError for a profile that cannot be read.

    What says that it is sRGB stays as it is, bit by bit.
    """
    if image.mode in ("P", "PA", "LA") or (image.mode == "RGB" and image.has_transparency_data):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        described = (profile.profile.profile_description or "").lower()
        if image.mode not in PROFILED.get(profile.profile.xcolor_space.strip(), ()) or "srgb" in described:
            return image
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        return ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode=mode)
    except (ImageCms.PyCMSError, OSError) as error:
        raise ValueError(f"its colour profile is broken: {error}; export it as sRGB") from error


def flatten(image: Image.Image, mode: str, background: str) -> np.ndarray:
    """The pixels in `mode`, over `background` where they are transparent; hidden colours would surface otherwise."""
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image.convert("RGBA"))
    return np.array(image.convert(mode))
