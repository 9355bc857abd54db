"""`subjects.yaml`: the words and hand-given boxes of a prepared folder, written by `mudi prepare`, edited by the user, read back."""

import io
from pathlib import Path
from typing import Annotated

from pydantic import Field
from ruamel.yaml import YAML

from mudi.records import CANVAS
from pipeline.settings.run_file import load_settings
from pipeline.settings.strict import Settings, Text

FILE_NAME = "subjects.yaml"
Number = Annotated[float, Field(ge=0)]
PixelBox = tuple[Number, Number, Number, Number]
CanvasNumber = Annotated[float, Field(ge=0, le=CANVAS)]
LayoutBox = tuple[CanvasNumber, CanvasNumber, CanvasNumber, CanvasNumber]
EXPLANATION = """\
What `mudi prepare` knows of these photos, to be corrected by hand; start it again and it makes the folder anew from this file.
identifier: a rare word that the fit binds to the subject. class: what describes it ("weimaraner" rather than "dog").
query: what the detector is asked for ("dog"). A photo's box (x0, y0, x1, y1) or points ((x, y), ...), in pixels of the upright
photo, replace the detector where it fails. layouts: a box for each subject on a canvas of 1024 by 1024.
"""


class PhotoEntry(Settings):
    caption: Text
    """What the photo shows; names the identifier."""
    box: PixelBox | None = None
    """Where the subject is, given by hand: x0, y0, x1, y1 in pixels of the upright photo."""
    points: tuple[tuple[Number, Number], ...] = ()
    """Points on the subject, given by hand, in pixels of the upright photo."""

    @property
    def hinted(self) -> bool:
        """Whether a person says where the subject is."""
        return self.box is not None or bool(self.points)


class SubjectEntry(Settings):
    identifier: Text
    """The rare word bound to the subject."""
    class_noun: Text = Field(alias="class")
    """What describes the subject, as precisely as a word or two can."""
    query: Text
    """What the detector is asked for."""
    photos: Annotated[dict[str, PhotoEntry], Field(min_length=1)]
    """File name in the folder -> its entry."""


class SubjectsFile(Settings):
    version: Annotated[int, Field(ge=1, le=1)] = 1
    """The form of this file."""
    source: Text
    """Who wrote the words: templates, a model's name, or a hand."""
    subjects: Annotated[dict[str, SubjectEntry], Field(min_length=2)]
    """Subject key -> its entry."""
    training_prompts: Annotated[tuple[Text, ...], Field(min_length=1)]
    """Templates for self-training; "{subjects}" names all subjects."""
    layouts: tuple[dict[str, LayoutBox], ...] = ()
    """Compositions: subject key -> x0, y0, x1, y1 on a canvas of 1024 by 1024."""


def read_subjects(path: Path) -> SubjectsFile:
    """The file at `path`; ValueError of one line that names the place of the first mistake."""
    return load_settings(SubjectsFile, path)


def write_subjects(path: Path, file: SubjectsFile) -> None:
    """Stores the file with its explanation on top, by rename."""
    yaml = YAML()
    yaml.width = 130
    buffer = io.StringIO()
    yaml.dump(file.model_dump(mode="json", by_alias=True, exclude_defaults=True) | {"version": file.version}, buffer)
    head = "".join(f"# {line}\n" for line in EXPLANATION.splitlines())
    part = path.with_suffix(".part")
    part.write_text(head + buffer.getvalue(), encoding="utf-8")
    part.replace(path)
