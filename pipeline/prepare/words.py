"""The words of a prepared folder: a writer writes new ones, a person's are kept, and all are checked before use."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from mudi.checkpoints.vocabularies import tokenizers_of
from mudi.dataset import DETECTION_QUERIES
from mudi.user_files.captions import check_caption
from mudi.user_files.identifiers import IDENTIFIERS, check_identifier
from mudi.user_files.metadata_file import text_of
from mudi.user_files.names import check_subject_key, is_device
from mudi.user_files.photos import read_image
from pipeline.prepare.writer import MOST_PHOTOS, Writer
from pipeline.settings.subjects_file import PhotoEntry, SubjectEntry, SubjectsFile
from pipeline.workers.failure import RunFailedError
from pipeline.workers.masks import Progress

PROMPTS = 10
LAYOUTS = 4


def write_words(
    file: SubjectsFile | None, new: Mapping[str, Mapping[str, Path]], writer: Writer, progress: Progress
) -> SubjectsFile:  # fmt: skip
    """`file` with an entry for each new photo and each new subject; `new` is subject -> file name -> photo.

    The writer is given a subject's key, with spaces for underscores, as its class, and may make it more precise.
    """
    subjects = dict(file.subjects) if file else {}
    done, count = 0, sum(map(len, new.values()))
    for key, photos in new.items():
        entry = subjects.get(key) or _new_subject(key, photos, writer, subjects)
        captions = {}
        for name, path in photos.items():
            captions[name] = PhotoEntry(caption=_caption(writer, path, phrase_of(entry)))
            progress("captions", done := done + 1, count)
        subjects[key] = entry.model_copy(update={"photos": {**entry.photos, **captions}})
    if file:
        return file.model_copy(update={"subjects": subjects})
    phrases = phrases_of(subjects)
    return SubjectsFile(
        source=writer.source,
        subjects=subjects,
        training_prompts=tuple(writer.prompts(list(phrases.values()), PROMPTS)),
        layouts=tuple(writer.layouts(phrases, LAYOUTS)),
    )


def _caption(writer: Writer, path: Path, phrase: str) -> str:
    """The writer's caption; its error names the photo, which the writer knows by its pixels alone."""
    try:
        return writer.caption(read_image(path), phrase)
    except (ValueError, RunFailedError) as error:
        raise type(error)(f"{path.name}: {error}") from error


def rename_in_captions(file: SubjectsFile, before: Mapping[str, str]) -> SubjectsFile:
    """The file with captions that name each subject by its present identifier and class instead of those of `before` (key -> both)."""
    subjects = {}
    for key, entry in file.subjects.items():
        old, now = before.get(key), phrase_of(entry)
        photos = {
            name: photo.model_copy(update={"caption": photo.caption.replace(old, now)}) if old and old != now else photo
            for name, photo in entry.photos.items()
        }
        subjects[key] = entry.model_copy(update={"photos": photos})
    return file.model_copy(update={"subjects": subjects})


def check_words(file: SubjectsFile, path: Path, photos: Collection[str]) -> None:
    """ValueError that names the key if words of `path` cannot be trained on; `photos` are the folder's files."""
    identifiers: dict[str, str] = {}
    owners: dict[str, str] = {}
    for key, entry in file.subjects.items():
        where = f"{path}: subjects.{key}"
        check_subject_key(where, key)
        if entry.identifier.split() != [entry.identifier]:
            raise ValueError(f"{where}.identifier: {entry.identifier!r} must be one word, such as {IDENTIFIERS[0]}")
        if (other := identifiers.setdefault(entry.identifier.lower(), key)) != key:
            raise ValueError(f"{where}.identifier: {entry.identifier!r} is that of {other} too; give each subject its own rare word")
        for name, text in (("class", entry.class_noun), ("query", entry.query)):
            text_of(where, {name: text}, name)
        for name, photo in entry.photos.items():
            if name not in photos:
                raise ValueError(f"{where}.photos: {name!r} is not in the folder; take its entry out, or put the photo back")
            if (other := owners.setdefault(name, key)) != key:
                raise ValueError(f"{where}.photos: {name!r} is a photo of {other} too; leave it to one of them")
            if is_device(name):
                raise ValueError(f"{where}.photos: {name!r} is a device on some systems; rename the photo and its entry")
            text_of(f"{where}.photos.{name}", {"caption": photo.caption}, "caption")
    by_key = {key: entry.identifier for key, entry in file.subjects.items()}
    for key, name, photo in photos_of(file):
        check_caption(f"{path}: subjects.{key}.photos.{name}.caption", photo.caption, key, by_key)
    for index, layout in enumerate(file.layouts):
        if set(layout) != set(file.subjects):
            raise ValueError(
                f"{path}: layouts[{index}]: has boxes for {', '.join(layout)}; give one for each of {', '.join(file.subjects)}"
            )


def check_hints(file: SubjectsFile, path: Path, photos: Mapping[str, Path]) -> None:
    """ValueError that names the key if a box or point of `path` does not lie in its photo; photos: file name -> photo."""
    for key, name, photo in photos_of(file):
        if not photo.hinted:
            continue
        where = f"{path}: subjects.{key}.photos.{name}"
        height, width = read_image(photos[name]).shape[:2]
        x0, y0, x1, y1 = photo.box or (0, 0, width, height)
        if not (x0 < x1 <= width and y0 < y1 <= height):
            raise ValueError(
                f"{where}.box: {list(photo.box)} must be x0, y0, x1, y1 with x0 < x1 <= {width} and y0 < y1 <= {height}, "
                f"in pixels of the photo of {width}x{height}"
            )
        for x, y in photo.points:
            if not (x < width and y < height):
                raise ValueError(f"{where}.points: [{x:g}, {y:g}] lies outside the photo of {width}x{height} pixels")


def check_tokens(file: SubjectsFile, path: Path, backbone: str | None) -> list[str]:
    """A sentence for each caption that the text encoders of `backbone`, by default SDXL's, cut off.

    ValueError for an identifier of `path` that is not one rare token to each of them.
    """
    found = tokenizers_of(backbone or "random-sdxl")
    if found is None:
        raise ValueError(f"backbone {backbone!r} is not here, so its words are not known; give a folder, or none for SDXL's words")
    tokenizers, context = found
    notes = []
    for key, entry in file.subjects.items():
        try:
            check_identifier(entry.identifier, tokenizers)
        except ValueError as error:
            raise ValueError(f"{path}: subjects.{key}.identifier: {error}") from error
        for name, photo in entry.photos.items():
            if (length := max(len(tokenizer(photo.caption).input_ids) for tokenizer in tokenizers)) > context:
                notes.append(f"{name}: the caption is {length} tokens long and {context} are read; shorten it")
    return notes


def _new_subject(key: str, photos: Mapping[str, Path], writer: Writer, others: Mapping[str, SubjectEntry]) -> SubjectEntry:
    noun = key.replace("_", " ").strip()
    described = writer.describe([read_image(path) for path in list(photos.values())[:MOST_PHOTOS]], noun)
    taken = {entry.identifier for entry in others.values()}
    free = [word for word in IDENTIFIERS if word not in taken]
    if not free:
        raise ValueError(f"{len(IDENTIFIERS)} subjects have an identifier; {key} is one more than there are rare words for")
    query = DETECTION_QUERIES.get(noun.lower()) or noun.split()[-1]
    return SubjectEntry.model_validate(
        {"identifier": free[0], "class": described, "query": query, "photos": {name: PhotoEntry(caption=free[0]) for name in photos}}
    )


def phrase_of(entry: SubjectEntry) -> str:
    """The words that captions call a subject by: "olis corgi"."""
    return f"{entry.identifier} {entry.class_noun}"


def phrases_of(subjects: Mapping[str, SubjectEntry]) -> dict[str, str]:
    """Subject key -> its phrase."""
    return {key: phrase_of(entry) for key, entry in subjects.items()}


def photos_of(file: SubjectsFile) -> Sequence[tuple[str, str, PhotoEntry]]:
    """(subject key, file name, entry) of every photo, in the order of the file."""
    return [(key, name, photo) for key, entry in file.subjects.items() for name, photo in entry.photos.items()]
