"""The plain comparator: how alike the whole picture and the photos of its subjects are.

Source: MuDI (arXiv 2404.04243), Fig. 10, which shows that it agrees with people far less than Detect-and-Compare: a picture
of two mixtures resembles both subjects' photos as much as one of both subjects does.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from mudi.model_facts import EMBEDDER_KINDS
from mudi.records import Combination, Prompt, Score, Subject
from mudi.user_files.photos import read_image


def mean_similarity(embeddings: np.ndarray, reference_embeddings: np.ndarray) -> np.ndarray:
    """(B,): the mean cosine of each image (B, D) to all photos (R, D) together; unit vectors."""
    return (np.asarray(embeddings, np.float64) @ np.asarray(reference_embeddings, np.float64).T).mean(axis=1)


class WholeImage:
    """Images of a combination to one similarity an embedder; every photo counts the same, whosever it is."""

    MODELS: ClassVar[tuple[str, ...]] = ("embedders",)
    # Every name this metric can yield, and whether higher is better.
    NAMES: ClassVar[dict[str, bool]] = {f"image_{kind}": True for kind in EMBEDDER_KINDS}

    def __init__(self, device: str = "cpu", embedders: Mapping[str, str] | None = None):
        """Loads the models once. embedders: kind (dreamsim, dinov2) -> name of its weights; both of the miniature if not given."""
        from mudi.models import load_embedder

        chosen = embedders or dict.fromkeys(EMBEDDER_KINDS, "miniature")
        self.embedders = [load_embedder(kind, name, device) for kind, name in chosen.items()]
        self._reference_embeddings: dict[tuple[Subject, ...], dict[str, np.ndarray]] = {}

    def __call__(self, images: Sequence[np.ndarray], prompt: Prompt, combination: Combination) -> list[tuple[Score, ...]]:
        """For each image uint8 (H, W, 3), its scores in -1..1. The prompt plays no part."""
        from mudi.embed import embed

        columns = []
        for embedder in self.embedders:
            references = self._references(combination.subjects)[embedder.kind]
            values = mean_similarity(embed(embedder, images).numpy(), references)
            scorer, details = f"{embedder.kind} {embedder.name}", {"references": len(references)}
            columns.append([Score(metric=f"image_{embedder.kind}", value=float(v), scorer=scorer, details=details) for v in values])
        return list(zip(*columns, strict=True))

    def _references(self, subjects: tuple[Subject, ...]) -> dict[str, np.ndarray]:
        """Embedder kind -> (R, D) of the whole photos of all subjects."""
        from mudi.embed import embed

        if subjects not in self._reference_embeddings:
            photos = [read_image(reference.image_path) for subject in subjects for reference in subject.references]
            self._reference_embeddings[subjects] = {embedder.kind: embed(embedder, photos).numpy() for embedder in self.embedders}
        return self._reference_embeddings[subjects]
