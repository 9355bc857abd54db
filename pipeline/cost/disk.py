"""What a run takes on disk: PNGs, adapters, Grams, class priors and Parquet, which stay, and checkpoints, which go when a fit is done."""

from collections.abc import Sequence
from dataclasses import dataclass

from mudi.adapter_size import FLOAT32, Architecture, gram_bytes
from pipeline.cost.calibration import PNG, Calibration, Rate
from pipeline.cost.price import PRIOR_REDRAWS, Range, fits_at_once
from pipeline.cost.workload import FitWork, Workload
from pipeline.settings.config import Cluster

CHECKPOINT_COPIES = 3  # the numbers and both of Adam's moments
# Parquet beside the PNGs, bytes. Chunks of 1, 4 and 10 pictures of the miniature's benchmark, two embedders, took 11.3 to 12.5 kB
# and 330 to 400 bytes a picture, 2.7 kB where a threshold of 0.05 finds many boxes; a metric added later 3.4 to 3.9 kB a chunk.
CHUNK_BYTES, PICTURE_BYTES, SCORES_BYTES = (11_000, 13_000), (250, 3_000), (2_500, 6_000)


@dataclass(frozen=True, kw_only=True)
class Disk:
    """Bytes of a whole run. adapters are exact but for those of merges (`adapter_numbers`), grams but for their headers; checkpoints
    are the most that lie there at once while fits run, and then none. self_generated: pictures that subjects' own fits draw of them."""

    images: Range
    measured: bool
    adapters: int
    grams: int
    checkpoints: int
    priors: Range
    self_generated: Range
    tables: Range


def adapter_numbers(fit: FitWork, architecture: Architecture) -> tuple[int, int]:
    """Parameters that a fit trains at once, and bytes of its adapter's files (`Personalization.adapter_numbers`)."""
    return fit.options.adapter_numbers(architecture, fit.combination, fit.alone)


def fit_grams(fit: FitWork, architecture: Architecture) -> int:
    """Bytes of the Grams of one subject, for a fit that collects some; 0 for one that does not."""
    return gram_bytes(architecture.unet, fit.options.lora_targets) if fit.grams else 0


def disk(workload: Workload, architecture: Architecture, png: Rate | None, cluster: Cluster, cores: int) -> Disk:
    """What the whole run takes on disk. Without a measured PNG the high end is that of raw pixels, and low is 0. How many
    checkpoints lie there depends on how many fits `cluster` runs at once; a local one has `cores`."""
    pictures = sum(draw.pictures for draw in workload.draws)
    chunks, raw = len(workload.draws), 3 * architecture.side**2
    each = (png.low, png.high) if png else (0.0, float(raw))
    sizes = [adapter_numbers(fit, architecture) for fit in workload.fits]
    judged = sum(judge.pictures for judge in workload.judged)
    priors = [sum(draw.pictures * factor for draw in workload.priors) for factor in (1, PRIOR_REDRAWS)]
    selves = sum(fit.pictures for fit in workload.fits)
    return Disk(
        images=(pictures * each[0], pictures * each[1]),
        measured=png is not None,
        adapters=sum(size for _, size in sizes),
        grams=sum(fit.grams * fit_grams(fit, architecture) for fit in workload.fits),
        checkpoints=max((_checkpoints(phase.fits, architecture, cluster, cores) for phase in workload.phases), default=0),
        priors=(priors[0] * each[0], priors[1] * each[1]),
        self_generated=(selves * each[0], selves * PRIOR_REDRAWS * each[1]),
        tables=tuple(
            chunks * CHUNK_BYTES[end] + pictures * PICTURE_BYTES[end] + judged / max(1, _mean_chunk(workload)) * SCORES_BYTES[end]
            for end in (0, 1)
        ),
    )


def _checkpoints(fits: Sequence[FitWork], architecture: Architecture, cluster: Cluster, cores: int) -> int:
    """The most bytes of checkpoints while these fits run, as many at once as there is room for."""
    sizes = [FLOAT32 * CHECKPOINT_COPIES * adapter_numbers(fit, architecture)[0] * fit.checkpoints for fit in fits]
    return sum(sorted(sizes, reverse=True)[: fits_at_once(cluster, len(fits), cores)])


def _mean_chunk(workload: Workload) -> float:
    return sum(draw.pictures for draw in workload.draws) / max(1, len(workload.draws))


def png_rate(calibrations: Sequence[Calibration]) -> Rate | None:
    """How large a PNG is, from any device: pictures do not depend on it."""
    return next((calibration.rates[PNG] for calibration in calibrations if PNG in calibration.rates), None)
