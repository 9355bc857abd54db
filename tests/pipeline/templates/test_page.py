"""A page is complete in itself, and says so if something is missing for it."""

import base64
import io

import pytest
from jinja2 import UndefinedError
from PIL import Image

from pipeline.templates.page import page, picture_address


def test_a_page_without_its_content_is_no_page():
    with pytest.raises(UndefinedError, match="title"):
        page("contact_sheet.html.j2", {})


def test_a_picture_is_inside_its_address():
    address = picture_address(Image.new("RGB", (30, 20), (200, 30, 30)), "WEBP", quality=80)
    kind, _, data = address.partition(",")
    assert kind == "data:image/webp;base64"
    stored = Image.open(io.BytesIO(base64.b64decode(data)))
    assert (stored.format, stored.size) == ("WEBP", (30, 20))
