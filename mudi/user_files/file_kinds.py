"""What a file really is, by its first bytes, where its name promises something else; and what to do about it."""

# Bytes that are enough to tell; an SVG may begin with comments.
HEAD = 4096
LFS_POINTER = b"version https://git-lfs"
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
# Beginnings, what it is, what to do. No file of a format that is read here begins like one of these.
BEGINNINGS = (
    (LFS_POINTER, "a Git LFS pointer, not the file itself", 'run "git lfs pull"'),
    (b"GIF8", "a GIF", "export one frame of it as PNG or JPEG"),
    (b"%PDF", "a PDF", "export the picture in it as PNG or JPEG"),
    (b"%!PS", "a PostScript file", "export the picture in it as PNG or JPEG"),
    ((b"II*\0", b"MM\0*"), "a TIFF or a camera's raw file", "export it as PNG or JPEG"),
    (b"BM", "a BMP", "export it as PNG or JPEG"),
    (b"8BPS", "a Photoshop file", "export it as PNG or JPEG"),
    ((b"\xff\x0a", b"\0\0\0\x0cJXL "), "a JPEG XL", "export it as PNG or JPEG"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000", "export it as PNG or JPEG"),
    (b"PK\x03\x04", "a ZIP archive or a PyTorch pickle", "unpack or convert it; a pickle is refused because loading it can run code"),
    ((b"\x80\x02", b"\x80\x04", b"\x80\x05"), "a pickle", "convert it; it is refused because loading it can run code"),
    (b"\x1f\x8b", "a gzip archive", "unpack it"),
)
# Text may begin with a byte order mark and blanks, in upper or lower case.
WEB_PAGE = (b"<!doctype html", b"<html", b"<head")


def recognise(head: bytes) -> tuple[str, str] | None:
    """What a file that begins with `head` is and what to do, such as ("a PDF", "export ..."); None where nothing tells.

    head: the first HEAD bytes, or all if there are fewer.
    """
    if not head:
        return "an empty file, 0 bytes", "copy it again from where it came"
    if head[4:8] == b"ftyp":
        if head[8:12] in HEIC:
            return "a HEIC photo", "export it as JPEG, or convert it with pillow-heif"
        if head[8:12] in (b"avif", b"avis"):
            return "an AVIF photo", "export it as JPEG"
        return "a video", "save one frame of it as PNG or JPEG"
    for beginning, kind, remedy in BEGINNINGS:
        if head.startswith(beginning):
            return kind, remedy
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if text.startswith(b"<svg") or (text.startswith((b"<?xml", b"<!--")) and b"<svg" in text):
        return "an SVG drawing", "export it as PNG, at 1024 pixels a side"
    if text.startswith(WEB_PAGE):
        return "a web page", "download the file itself, not the page that shows it"
    return None


def first_bytes(path) -> bytes:
    """The first HEAD bytes of a file. Raises OSError where it cannot be opened."""
    with open(path, "rb") as file:
        return file.read(HEAD)
