"""A stored picture inside a page: as it is where it is small, else reduced."""

import base64
import io

from PIL import Image

TINY = 128


def data_address(png: bytes, side: int) -> str:
    """A `data:` address: pictures below 128 pixels as they are, others at most `side` pixels wide and high as WebP."""
    image = Image.open(io.BytesIO(png), formats=("PNG",))
    if max(image.size) < TINY:
        return f"data:image/png;base64,{base64.b64encode(png).decode()}"
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", quality=82)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
