"""`mudi prepare NAME=FOLDER ... --out FOLDER`: photos become a combination with masks, captions and a contact sheet.

mudi prepare corgi=photos/corgi chow_chow=photos/chow --out my_pair --detector weights/owlv2 --segmenter weights/sam_vit_h
mudi prepare corgi=photos/corgi chow=photos/chow --out my_pair --words endpoint:gpt-5-mini     # a model writes class and captions
mudi prepare --out my_pair                  # again, after an edit of my_pair/subjects.yaml or of a mask
"""

import os
from pathlib import Path
from typing import Annotated

import typer

from jobs import entry
from jobs.driver import started

# So many photos on one machine take long enough that workers pay for their start.
MANY = 200

Sources = Annotated[
    list[str] | None, typer.Argument(help="NAME=FOLDER of photos, one for each subject; not needed for a folder prepared before.")
]
Out = Annotated[Path, typer.Option(help="The folder to make, or one made before to make anew after an edit.")]
Detector = Annotated[str | None, typer.Option(help="OWLv2 weights: a folder, hub id@revision, or miniature for rendered animals.")]
Segmenter = Annotated[str | None, typer.Option(help="Segment-anything weights: a folder, hub id@revision, or miniature.")]
Threshold = Annotated[float | None, typer.Option(help="Least confidence of a detected box; 0.2 as in MuDI.", min=0.01, max=1.0)]
Backbone = Annotated[str | None, typer.Option(help="The model to be adapted, whose tokens identifiers must be; SDXL's by default.")]
Words = Annotated[
    str,
    typer.Option(
        help="Who writes class, captions, prompts, layouts: templates; endpoint:MODEL or endpoint:VISION_MODEL,LANGUAGE_MODEL, at the "
        "address in MUDI_WORDS_ADDRESS with the key in MUDI_WORDS_KEY; or weights of a vision-language model, a folder or hub id@revision."
    ),
]
Address = Annotated[str | None, typer.Option(help=f"Ray: local or auto. Without it a plain loop up to {MANY} photos, then local.")]
Gpus = Annotated[float, typer.Option(help="GPUs of one worker; 0 is the CPU.", min=0.0)]
Workers = Annotated[int, typer.Option(help="The most Ray workers at once.", min=1)]


def prepare(
    out: Out, sources: Sources = None, detector: Detector = None, segmenter: Segmenter = None, threshold: Threshold = None,
    backbone: Backbone = None, words: Words = "templates", address: Address = None, gpus: Gpus = 0.0, workers: Workers = 2,
) -> None:  # fmt: skip
    """Copy photos, cut their subjects out, write captions, and show it all on a contact sheet to be corrected."""
    from jobs.progress import live_progress
    from pipeline.prepare.prepare import known_settings
    from pipeline.prepare.prepare import prepare as run
    from pipeline.prepare.text import summary
    from pipeline.workers.failure import RunFailedError

    settings = known_settings(out, detector, segmenter, threshold)
    with live_progress() as progress:
        masker = _masker(settings, address, gpus, workers)
        prepared = run(_folders(sources or []), out, chosen_writer(words, gpus), masker, settings, progress, backbone)
    print("\n".join(summary(prepared)))
    if prepared.bare:
        raise RunFailedError(
            f"{out}: no photo of {', '.join(prepared.bare)} has a mask yet; give a box in {out / 'subjects.yaml'} and start "
            f"`mudi prepare --out {out}` again"
        )


def chosen_writer(words: str, gpus: float):
    """Who writes classes, captions, prompts and layouts. Photos leave this machine only where an endpoint is asked for by name."""
    from pipeline.prepare.writer import endpoint_writer, local_writer_of, templates_writer

    if words == "templates":
        return templates_writer()
    if not words.strip():
        raise ValueError(f"--words {words!r}: names nobody; give templates, endpoint:MODEL or weights of a vision-language model")
    kind, _, names = words.partition(":")
    if kind != "endpoint":
        return local_writer_of(words, "cuda" if gpus else "cpu")
    models = [name.strip() for name in names.split(",")]
    if not all(models) or len(models) > 2:
        raise ValueError(f"--words {words}: expected endpoint:MODEL or endpoint:VISION_MODEL,LANGUAGE_MODEL")
    address = os.environ.get("MUDI_WORDS_ADDRESS")
    if not address:
        raise ValueError(f"--words {words}: MUDI_WORDS_ADDRESS is not set; give the endpoint's address, such as https://host/v1")
    return endpoint_writer(address, os.environ.get("MUDI_WORDS_KEY"), *models)


def _folders(sources: list[str]) -> dict[str, Path]:
    folders = {}
    for source in sources:
        name, equals, folder = source.partition("=")
        if not equals or not name or not folder:
            raise ValueError(f"{source!r}: expected NAME=FOLDER, such as corgi=photos/corgi")
        if name in folders:
            raise ValueError(f"{source!r}: {name} is given twice; put its photos into one folder")
        folders[name] = Path(folder).expanduser()
    return folders


def _masker(settings, address: str | None, gpus: float, workers: int):
    """Masks in this process, or on Ray where it is asked for or worth its start."""
    from pipeline.settings.config import Cluster, Slot
    from pipeline.workers.masks import mask_all

    if address not in (None, "auto", "local"):
        raise ValueError(f"--address {address}: expected auto, the cluster that this machine is part of, or local")

    def masker(jobs, progress):
        where = "none" if address is None and len(jobs) <= MANY else address
        with started(Cluster(address=where, workers=Slot(gpus=gpus, count=workers))) as (do, _):
            return mask_all(do, settings, jobs, progress)

    return masker


if __name__ == "__main__":
    entry.run(prepare)
