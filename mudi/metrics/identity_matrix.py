"""Further readings of Detect-and-Compare's matrices: for any number of boxes, whatever the order of the subjects, collapse, interference.

All are read off how alike boxes and subjects are, S (M, N), and the subjects among themselves, G (N, N), as `detect_and_compare`
makes them. A box belongs to the subject that the assignment of the largest sum gives it.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from mudi.metrics.detect_and_compare import DetectAndCompare, linear_score
from mudi.model_facts import EMBEDDER_KINDS
from mudi.records import Combination, Prompt, Score


def assigned(similarity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes and subjects (K,) that belong together, K = min(M, N), in the order of the subjects."""
    from scipy.optimize import linear_sum_assignment

    boxes, subjects = linear_sum_assignment(similarity, maximize=True)
    order = np.argsort(subjects)
    return boxes[order], subjects[order]


def assigned_score(similarity: np.ndarray, reference_similarity: np.ndarray) -> float:
    """1 - ||S - G||_2 with the boxes in the order of their subjects; 0 if M != N.

    Departure from `gt_score` of MuDI's demo, where each subject in turn takes the box that is left and most like it: there the
    score depends on the order of the subjects, here it does not.
    """
    if len(similarity) != len(reference_similarity):
        return 0.0
    return float(1 - np.linalg.norm(similarity[assigned(similarity)[0]] - reference_similarity, ord=2))


def surest_score(similarity: np.ndarray, confidences: np.ndarray) -> float:
    """`linear_score` of the N surest boxes, times min(M, N) / max(M, N): a wrong number of boxes costs its share, not everything.

    Where boxes are missing the score is the sum over those that are there, each above its mean likeness to the other subjects.
    """
    boxes, subjects = similarity.shape
    kept = np.sort(np.argsort(-confidences, kind="stable")[:subjects])
    similarity = similarity[kept]
    if not len(similarity):
        return 0.0
    if len(similarity) == subjects:
        value = linear_score(similarity)
    else:
        rows, columns = assigned(similarity)
        own = similarity[rows, columns]
        value = float((own - (similarity[rows].sum(axis=1) - own) / max(subjects - 1, 1)).sum())
    return value * min(boxes, subjects) / max(boxes, subjects)


def mimr(similarity: np.ndarray) -> float | None:
    """UMO's multi-identity matching reward (arXiv 2509.06818): the mean of S, negative where box and subject do not belong together.

    At two boxes of two subjects a quarter of `linear_score`. None without a box.
    """
    if not len(similarity):
        return None
    sign = np.full(similarity.shape, -1.0)
    sign[assigned(similarity)] = 1.0
    return float((sign * similarity).mean())


def id_conf(similarity: np.ndarray) -> float | None:
    """UMO's ID-Conf: how far each subject's best box is above its second, as a share of the best, averaged over the subjects.

    None with fewer than two boxes, or where a subject's best likeness is not above 0, since a share of it then says nothing.
    """
    if len(similarity) < 2:
        return None
    second, best = np.sort(similarity, axis=0)[-2:]
    return float(((best - second) / best).mean()) if (best > 0).all() else None


def collapse(similarity: np.ndarray) -> float:
    """1 if some subject is the nearest of no box, else 0: its mean over images is a collapse rate, lower is better.

    After "When Identities Collapse" (arXiv 2603.26078), which counts subjects whose likeness falls below a threshold that it does
    not give; here a subject is lost where every box looks more like another one.
    """
    return float(len(set(similarity.argmax(axis=1).tolist())) < similarity.shape[1])


def interference(similarity: np.ndarray, reference_similarity: np.ndarray) -> float | None:
    """How much more boxes look like each other's subjects than these subjects' photos do: the mean of S - G off the diagonal.

    After MultiBind (arXiv 2603.21937), with the photos for the truth; 0 is best, lower is better. None if M != N or N = 1.
    """
    subjects = len(reference_similarity)
    if len(similarity) != subjects or subjects == 1:
        return None
    difference = similarity[assigned(similarity)[0]] - reference_similarity
    return float(difference[~np.eye(subjects, dtype=bool)].mean())


def degradation(similarity: np.ndarray, reference_similarity: np.ndarray) -> float | None:
    """How much less each box looks like its subject than that subject's photos do: the mean of G - S on the diagonal.

    After MultiBind, as `interference`; lower is better. None if M != N.
    """
    if len(similarity) != len(reference_similarity):
        return None
    return float((reference_similarity - similarity[assigned(similarity)[0]]).diagonal().mean())


FORMS = {
    "dnc_assigned": lambda of: assigned_score(of.similarity, of.reference_similarity),
    "dnc_surest": lambda of: surest_score(of.similarity, of.confidences),
    "mimr": lambda of: mimr(of.similarity),
    "id_conf": lambda of: id_conf(of.similarity),
    "collapse": lambda of: collapse(of.similarity),
    "interference": lambda of: interference(of.similarity, of.reference_similarity),
    "degradation": lambda of: degradation(of.similarity, of.reference_similarity),
}
LOWER_IS_BETTER = ("collapse", "interference", "degradation")
# Each has its own reason in its docstring: too few boxes, or not as many as subjects.
UNDEFINED_AT_SOME = ("mimr", "id_conf", "interference", "degradation")


class IdentityMatrix:
    """Images of a combination to seven scores an embedder, of the boxes that `DetectAndCompare` finds."""

    MODELS: ClassVar[tuple[str, ...]] = ("detector", "embedders")
    NAMES: ClassVar[dict[str, bool]] = {f"{form}_{kind}": form not in LOWER_IS_BETTER for kind in EMBEDDER_KINDS for form in FORMS}
    MAY_LACK: ClassVar[frozenset[str]] = frozenset(f"{form}_{kind}" for kind in EMBEDDER_KINDS for form in UNDEFINED_AT_SOME)

    def __init__(
        self, device: str = "cpu", detector: str = "miniature", embedders: Mapping[str, str] | None = None, threshold: float = 0.4
    ):
        """As `DetectAndCompare`."""
        self.compared = DetectAndCompare(device, detector, embedders, threshold, forms=FORMS)

    def __call__(self, images: Sequence[np.ndarray], prompt: Prompt, combination: Combination) -> list[tuple[Score, ...]]:
        """For each image uint8 (H, W, 3), its scores. The prompt plays no part."""
        return self.compared(images, prompt, combination)
