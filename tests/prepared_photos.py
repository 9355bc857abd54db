"""What the tests of `prepare` share: rendered photos with and without masks, and two settings."""

import hashlib

from PIL import Image

from pipeline.prepare_masks import MaskSettings

SETTINGS = MaskSettings(detector="miniature", segmenter="miniature", threshold=0.2)
WITHOUT_MODELS = MaskSettings(detector="", segmenter="", threshold=0.2)


def silent(label, done, total):
    pass


def never(jobs, progress):
    raise AssertionError(f"no photo needs a mask, and {len(jobs)} were asked for")


def bare(rendered):
    return {"cat": rendered / "cat_bare", "dog": rendered / "dog_bare"}


def contents(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if path.is_file()}


def edit(out, old, new):
    text = (out / "subjects.yaml").read_text()
    assert old in text
    (out / "subjects.yaml").write_text(text.replace(old, new, 1))


def save(path, colour=(200, 30, 30), size=(30, 20), mode="RGB", **options):
    """A picture with a corner of another colour, so that a turn shows."""
    image = Image.new("RGB", size, colour)
    image.paste((0, 0, 255), (0, 0, 8, 4))
    image.convert(mode).save(path, **options)
    return path
