"""A page is a template of this folder filled in, with its pictures inside it."""

import base64
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image


def page(template: str, content: Mapping[str, Any], **filters: Callable[..., object]) -> str:
    """The template with its content, all of it escaped; a name that the content lacks raises jinja2's UndefinedError."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= filters
    return environment.get_template(template).render(content)


def picture_address(picture: Image.Image, form: str, quality: int) -> str:
    """The picture, "WEBP" or "JPEG", as a `data:` address, so that its reader needs no other file."""
    buffer = io.BytesIO()
    picture.save(buffer, form, quality=quality)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
