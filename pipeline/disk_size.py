"""What a run takes on disk: PNGs, adapters, class priors and Parquet, which stay, and checkpoints, which go when a fit is done."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from mudi import adapter_size
from mudi.adapter_size import FLOAT32, Architecture
from mudi.adapters import LoraSettings
from mudi.methods.cones2 import Cones2
from mudi.methods.custom_diffusion import TARGETS
from pipeline.calibration import PNG, Calibration, Rate
from pipeline.config import Cluster
from pipeline.price import PRIOR_REDRAWS, Range, fits_at_once
from pipeline.workload import FitWork, Workload

# What each method trains: the places of its LoRA, None for none, and whether each subject has a token row.
TRAINED: Mapping[str, tuple[tuple[str, ...] | None, bool]] = {
    "mudi": (LoraSettings().targets, False),
    "dreambooth": (LoraSettings().targets, False),
    "cut_mix": (LoraSettings().targets, False),
    "custom_diffusion": (TARGETS, True),
    "textual_inversion": (None, True),
    "concept_conductor": (LoraSettings().targets, False),
    "cones2": (None, False),
    "merged_loras": (LoraSettings().targets, False),
    "mix_of_show": (LoraSettings().targets, True),
    "mudi_modular": (LoraSettings().targets, False),
    "custom_diffusion_merged": (TARGETS, True),
}
# Of the methods that fit each subject alone these store one LoRA of all ranks, the others one for each subject.
MERGED = ("merged_loras", "mix_of_show", "mudi_modular", "custom_diffusion_merged")
CHECKPOINT_COPIES = 3  # the numbers and both of Adam's moments
# Parquet beside the PNGs, bytes. Chunks of 1, 4 and 10 pictures of the miniature's benchmark, two embedders, took 11.3 to 12.5 kB
# and 330 to 400 bytes a picture, 2.7 kB where a threshold of 0.05 finds many boxes; a metric added later 3.4 to 3.9 kB a chunk.
CHUNK_BYTES, PICTURE_BYTES, SCORES_BYTES = (11_000, 13_000), (250, 3_000), (2_500, 6_000)


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Bytes of a whole run. adapters are exact but for those of merges (`adapter_bytes`); checkpoints are the most that lie
    there at once while fits run, and then none."""

    images: Range
    measured: bool
    adapters: int
    checkpoints: int
    priors: Range
    tables: Range


def adapter_bytes(fit: FitWork, architecture: Architecture) -> tuple[int, int]:
    """Parameters that a fit trains at once, and bytes of its adapter's files, the manifest of a few kilobytes left out.

    Subjects that are fitted alone leave their own files too. A constrained merge has the rank of its words, which are
    not known here: it is counted as a merge of all ranks, and class rows of an ED-LoRA are not counted.
    """
    if isinstance(fit.options, Cones2):
        return _residual_bytes(fit, fit.options, architecture)
    targets, has_rows = TRAINED[fit.method]
    subjects, rank = len(fit.combination.subjects), getattr(fit.options, "rank", 0)
    identifiers = [subject.identifier for subject in fit.combination.subjects] if has_rows else []
    rows = adapter_size.row_shapes(architecture, identifiers)
    row_bytes = adapter_size.file_bytes(rows, {"format": "pt"})
    shapes, own = _lora_bytes(targets, rank, architecture)
    trained = adapter_size.parameters(shapes) + adapter_size.parameters(rows)
    if fit.alone is None:
        return trained, own + row_bytes
    stored = subjects * own
    if fit.method in MERGED:
        stored = _lora_bytes(targets, getattr(fit.options, "merge_rank", None) or subjects * rank, architecture)[1]
    return trained, stored + row_bytes + fit.alone * (own + row_bytes // subjects)


def _lora_bytes(targets: tuple[str, ...] | None, rank: int, architecture: Architecture) -> tuple[adapter_size.Shapes, int]:
    """The matrices of a LoRA and the bytes of its file; neither where there are no targets."""
    if not targets:
        return {}, 0
    lora = LoraSettings(rank=rank, alpha=rank, targets=targets)
    shapes = adapter_size.lora_shapes(architecture.unet, lora)
    return shapes, adapter_size.file_bytes(shapes, adapter_size.lora_metadata(lora))


def _residual_bytes(fit: FitWork, options: Cones2, architecture: Architecture) -> tuple[int, int]:
    """The same of residuals: each subject's own file beside that of them all. What is trained for them is not stored."""
    nouns = {subject.key: subject.class_noun for subject in options.view(fit.combination).subjects}
    sizes = [
        adapter_size.file_bytes(adapter_size.residual_shapes(architecture, {key: noun}), {"format": "pt"}) for key, noun in nouns.items()
    ]
    shapes = adapter_size.residual_shapes(architecture, nouns)
    trained = {
        "text_full": adapter_size.encoder_parameters(architecture),
        "text_lora": adapter_size.encoder_lora_parameters(architecture, options.rank),
        "direct": max(map(prod, shapes.values())),
    }[options.tuning]
    return trained, adapter_size.file_bytes(shapes, {"format": "pt"}) + sum(sizes[: fit.alone])


def disk(workload: Workload, architecture: Architecture, png: Rate | None, cluster: Cluster, cores: int) -> Disk:
    """What the whole run takes on disk. Without a measured PNG the high end is that of raw pixels, and low is 0. How many
    checkpoints lie there depends on how many fits `cluster` runs at once; a local one has `cores`."""
    pictures = sum(draw.pictures for draw in workload.draws)
    chunks, raw = len(workload.draws), 3 * architecture.side**2
    each = (png.low, png.high) if png else (0.0, float(raw))
    sizes = [adapter_bytes(fit, architecture) for fit in workload.fits]
    judged = sum(judge.pictures for judge in workload.judged)
    priors = [sum(draw.pictures * factor for draw in workload.priors) for factor in (1, PRIOR_REDRAWS)]
    return Disk(
        images=(pictures * each[0], pictures * each[1]),
        measured=png is not None,
        adapters=sum(size for _, size in sizes),
        checkpoints=max((_checkpoints(phase.fits, architecture, cluster, cores) for phase in workload.phases), default=0),
        priors=(priors[0] * each[0], priors[1] * each[1]),
        tables=tuple(
            chunks * CHUNK_BYTES[end] + pictures * PICTURE_BYTES[end] + judged / max(1, _mean_chunk(workload)) * SCORES_BYTES[end]
            for end in (0, 1)
        ),
    )


def _checkpoints(fits: Sequence[FitWork], architecture: Architecture, cluster: Cluster, cores: int) -> int:
    """The most bytes of checkpoints while these fits run, as many at once as there is room for."""
    sizes = [FLOAT32 * CHECKPOINT_COPIES * adapter_bytes(fit, architecture)[0] * fit.checkpoints for fit in fits]
    return sum(sorted(sizes, reverse=True)[: fits_at_once(cluster, len(fits), cores)])


def _mean_chunk(workload: Workload) -> float:
    return sum(draw.pictures for draw in workload.draws) / max(1, len(workload.draws))


def png_rate(calibrations: Sequence[Calibration]) -> Rate | None:
    """How large a PNG is, from any device: pictures do not depend on it."""
    return next((calibration.rates[PNG] for calibration in calibrations if PNG in calibration.rates), None)
