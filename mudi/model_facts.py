"""What is known of a model before it is loaded: where the folder behind its name lies, and what tells its weights from others."""

import hashlib
import re
from functools import lru_cache
from pathlib import Path

MINIATURE = Path(__file__).parent / "miniature" / "weights"
MINIATURE_SD = "miniature-sd"  # the one-encoder family's backbone, of Stable Diffusion 1.5's plan
MINIATURES = ("miniature", MINIATURE_SD)
RANDOM = re.compile(r"random-(?P<family>sdxl|sd15|sd21)(?::(?P<seed>\d+))?")
HUB = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
# Leaves out pickles, half-precision and single-file duplicates, and other frameworks' weights.
HUB_FILES = [
    "*.json", "*.txt", "*.jinja", "model.safetensors", "*/model.safetensors", "*/diffusion_pytorch_model.safetensors", "*-of-*.safetensors",
]  # fmt: skip
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".tar")
# Of a file of weights this many blocks are read beside its head, evenly spread: training moves nearly every number, and all of
# SDXL's 7 to 14 GB would take longer to read than to load.
BLOCKS, BLOCK_BYTES = 64, 4096
EMBEDDER_KINDS = ("dreamsim", "dinov2")  # the keys of `models.EMBEDDERS`
PAIR = 2  # subjects that the oracle reads in a picture, no more and no fewer
BACKBONE = ("scheduler", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "unet", "vae")
INDEX = "model_index.json"


def is_hub_id(name: str) -> bool:
    """Whether a name is fetched from the hub: an id with a revision that is no local folder."""
    matched = HUB.fullmatch(name)
    return bool(matched and matched["revision"]) and not Path(name).expanduser().is_dir()


def find_folder(name: str, miniature_part: str = "") -> Path:
    """The local folder that a name stands for; hub ids are fetched. ValueError says what names are allowed.

    miniature_part: the subfolder of the miniature's weights, "" for its backbone.
    """
    if name in MINIATURES:
        folder = MINIATURE / ("one_encoder" if name == MINIATURE_SD else miniature_part)
        if not folder.is_dir():
            raise ValueError(f"the miniature's weights are missing from {folder}; reinstall the package or run `mudi miniature`")
        return folder
    path = Path(name).expanduser()
    if name and path.is_dir():
        return path
    if path.is_file() or path.suffix in PICKLES:
        reason = "a pickled file, refused because loading it can run code" if path.suffix in PICKLES else "a single file"
        raise ValueError(f"model {name!r} is {reason}; give a folder with config.json and *.safetensors")
    hub = HUB.fullmatch(name)
    if hub is None:
        allowed = (
            "'miniature', an existing folder, a hub id with a revision as in 'owner/name@REVISION', or as backbone 'miniature-sd', "
            "'random-sdxl', 'random-sd15' or 'random-sd21'"
        )
        raise ValueError(f"model {name!r} is neither an existing folder nor a known name; allowed are {allowed}")
    if hub["revision"] is None:
        raise ValueError(
            f"model {name!r} is no existing folder, and as a hub id it has no revision, so its weights could change; "
            f"write '{name}@REVISION' with the commit from the model's page"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        return Path(snapshot_download(hub["repo"], revision=hub["revision"], allow_patterns=HUB_FILES))
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ValueError(f"model {name!r} was not found on the hub ({type(error).__name__}); check its id, revision and access") from error


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
    files = sorted(path for path in _parts(folder, "*") if path.is_file())
    looks = [(path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return _digest(folder, tuple(files), tuple(looks))


def weights_bytes(name: str, miniature_part: str = "") -> int:
    """The bytes of the weights of a model that lies here, as they are stored; 0 of one that does not. miniature_part: as for
    `find_folder`."""
    return sum(path.stat().st_size for path in _parts(local_folder(name, miniature_part), "*.safetensors"))


def _parts(folder: Path, pattern: str) -> list[Path]:
    roots = [folder / part for part in BACKBONE] if (folder / INDEX).is_file() else [folder]
    return [path for root in roots for path in root.rglob(pattern)]


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


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
