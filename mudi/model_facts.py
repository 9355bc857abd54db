"""What tells a model's weights from others: names of folders do not, since another model may come to lie in one."""

import hashlib
from functools import lru_cache
from pathlib import Path

from mudi.models import MINIATURES, find_folder

# Of a file of weights this many blocks are read beside its head, evenly spread: training moves nearly every number, and all of
# SDXL's 7 to 14 GB would take longer to read than to load.
BLOCKS, BLOCK_BYTES = 64, 4096
BACKBONE = ("scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae")
INDEX = "model_index.json"


def local_folder(name: str, miniature_part: str = "") -> Path:
    """Where a model lies that is not fetched, whether or not anything is there. miniature_part: as for `models.find_folder`."""
    return find_folder(name, miniature_part) if name in MINIATURES else Path(name).expanduser()


def weights_identity(name: str, miniature_part: str = "") -> str:
    """32 hexadecimal digits of the contents of the model that `name` stands for, wherever its folder lies.

    Settings and vocabularies count whole, weights by their size, their head and a sample of blocks. A hub id with its revision
    and a "random-" name say it all and are returned as they are, and so is the name of a folder that is not here, with which
    nothing can have been made. miniature_part: as for `models.find_folder`.
    """
    folder = local_folder(name, miniature_part)
    if not folder.is_dir():
        return name
    roots = [folder / part for part in BACKBONE] if (folder / INDEX).is_file() else [folder]
    files = sorted(path for root in roots for path in root.rglob("*") if path.is_file())
    looks = [(path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return _digest(folder, tuple(files), tuple(looks))


@lru_cache(maxsize=64)
def _digest(folder: Path, files: tuple[Path, ...], looks: tuple[tuple[int, int], ...]) -> str:
    """The digest of files that look so; asked again they are not read again."""
    digest = hashlib.sha256()
    for path, (size, _) in zip(files, looks, strict=True):
        digest.update(f"{path.relative_to(folder).as_posix()} {size}\n".encode())
        with path.open("rb") as file:
            if path.suffix != ".safetensors":
                digest.update(file.read())
                continue
            head = 8 + int.from_bytes(file.read(8), "little")
            file.seek(0)
            digest.update(file.read(min(head, size)))
            for block in range(BLOCKS):
                file.seek(head + (size - head) * block // BLOCKS)
                digest.update(file.read(BLOCK_BYTES))
    return digest.hexdigest()[:32]
