"""Detect-and-Compare: are all subjects in the picture, once each, and does each look like itself and like no other?

Source: MuDI (arXiv 2404.04243), Algorithm 3. A detector finds the subjects' super-categories, an embedder
compares each box with each subject's photos, and a similarity matrix S (boxes M, subjects N) remains,
from which three scores follow. They have different scales and must never be mixed in a table:

- `linear_score`, the paper's first version, whose tables use it; here for any N
- `max_score`, the paper's "Max" column, blind to two boxes of one subject
- `gt_score`, the redefinition of the released demo, against the similarity among the photos themselves

A wrong number of boxes scores 0: a subject is missing, doubled or detected twice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mudi.model_facts import EMBEDDER_KINDS
from mudi.records import Box, Combination, Detection, Prompt, Reference, Score, Subject
from mudi.user_files.photos import read_image

if TYPE_CHECKING:
    from mudi.embed import Embedder

# A box taken out of an image, and a reference as it is compared: uint8 (h, w, 3).
Cut = Callable[[np.ndarray, Box], np.ndarray]
Photo = Callable[[Reference], np.ndarray]


def linear_score(similarity: np.ndarray) -> float:
    """How much each box looks more like its own subject than like the others, summed over the boxes.

    similarity: (M, N), cosine. With the assignment pi of boxes to subjects that maximises the sum of
    S[i, pi(i)], the score is sum_i (S[i, pi(i)] - mean over j != pi(i) of S[i, j]). For N = 2 that is
    Algorithm 3, |S00 - S01 - S10 + S11|; the paper defines no score for more subjects. One subject
    scores S00. 0 if M != N.
    """
    from scipy.optimize import linear_sum_assignment

    similarity = _checked(similarity)
    boxes, subjects = similarity.shape
    if boxes != subjects:
        return 0.0
    own = similarity[linear_sum_assignment(similarity, maximize=True)]
    others = (similarity.sum(axis=1) - own) / max(subjects - 1, 1)
    return float((own - others).sum())


def max_score(similarity: np.ndarray) -> float:
    """The sum over the boxes of each one's highest similarity; (M, N), cosine, 0 if M != N (Table 2)."""
    similarity = _checked(similarity)
    boxes, subjects = similarity.shape
    return float(similarity.max(axis=1).sum()) if boxes == subjects else 0.0


def gt_score(similarity: np.ndarray, reference_similarity: np.ndarray) -> float:
    """1 - ||S - G||_2 with the boxes sorted to the subjects; 1 if boxes and photos are equally alike.

    similarity S: (M, N), reference_similarity G: (N, N) of `reference_matrix`, both cosine. Each subject
    in turn takes the remaining box most similar to it (greedy, as in the released demo, hence dependent
    on the order of the subjects). The norm is spectral, the largest singular value. 0 if M != N.
    """
    similarity, reference_similarity = _checked(similarity), _checked(reference_similarity)
    boxes, subjects = similarity.shape
    if reference_similarity.shape != (subjects, subjects):
        raise ValueError(f"reference_similarity is {reference_similarity.shape}; {subjects} subjects need {(subjects, subjects)}")
    if boxes != subjects:
        return 0.0
    remaining, order = list(range(boxes)), []
    for subject in range(subjects):
        order.append(max(remaining, key=lambda box: similarity[box, subject]))
        remaining.remove(order[-1])
    return float(1 - np.linalg.norm(similarity[order] - reference_similarity, ord=2))


def similarity_matrix(crop_embeddings: np.ndarray, reference_embeddings: Sequence[np.ndarray]) -> np.ndarray:
    """(M, N): mean cosine of each box's embedding (M, D) to those of each subject's photos (R_j, D); unit vectors."""
    columns = [(np.asarray(crop_embeddings) @ np.asarray(photos).T).mean(axis=1) for photos in reference_embeddings]
    return np.stack(columns, axis=1).astype(np.float64)


def reference_matrix(reference_embeddings: Sequence[np.ndarray]) -> np.ndarray:
    """(N, N): mean cosine between the photos of two subjects, (R_j, D) each.

    The diagonal includes each photo with itself, as in the released demo, which inflates it.
    """
    return np.stack([similarity_matrix(photos, reference_embeddings).mean(axis=0) for photos in reference_embeddings])


@dataclass(frozen=True, kw_only=True)
class Matrices:
    """What is known of one image by one embedder: how alike boxes and subjects are (M, N), the subjects among themselves (N, N),
    and how sure the detector is of each box (M,)."""

    similarity: np.ndarray
    reference_similarity: np.ndarray
    confidences: np.ndarray


# Name of a score, before that of the embedder -> its value, None where it has none.
Forms = Mapping[str, Callable[[Matrices], float | None]]
FORMS: Forms = {
    "dnc_linear": lambda of: linear_score(of.similarity),
    "dnc_max": lambda of: max_score(of.similarity),
    "dnc_gt": lambda of: gt_score(of.similarity, of.reference_similarity),
}


def score_image(of: Matrices, forms: Forms, embedder_kind: str, scorer: str, boxes: Sequence[Detection]) -> tuple[Score, ...]:
    """The scores of one image by one embedder, for `boxes` in the order of the rows of its similarity."""
    matrices = {"similarity": of.similarity.tolist(), "reference_similarity": of.reference_similarity.tolist()}
    details = _box_details(boxes, subjects=of.similarity.shape[1]) | matrices
    return tuple(Score(metric=f"{name}_{embedder_kind}", value=form(of), scorer=scorer, details=details) for name, form in forms.items())


def score_count(boxes: Sequence[Detection], subjects: int, scorer: str) -> Score:
    """1 if there are as many boxes as subjects, else 0; its mean over images is the count accuracy."""
    return Score(metric="count_correct", value=float(len(boxes) == subjects), scorer=scorer, details=_box_details(boxes, subjects=subjects))


class Compare:
    """The second half of the metric, from boxes to scores; embeds the photos of each combination once."""

    def __init__(
        self, embedders: "Sequence[Embedder]", detected_by: str, forms: Forms = FORMS, cut: Cut | None = None, photo: Photo | None = None
    ):
        """`detected_by` says where the boxes come from, and is stored beside each score. `cut` takes a box out of an image, by
        default `mudi.embed.square_crop`; `photo` shows a reference, by default whole: the paper neither masks nor crops them."""
        self.embedders = tuple(embedders)
        self.detected_by = detected_by
        self.forms = forms
        self.cut = cut
        self.photo = photo or (lambda reference: read_image(reference.image_path))
        self._reference_embeddings: dict[tuple[Subject, ...], dict[str, list[np.ndarray]]] = {}

    def __call__(
        self, images: Sequence[np.ndarray], detections: Sequence[Sequence[Detection]], combination: Combination
    ) -> list[tuple[Score, ...]]:
        """For each image uint8 (H, W, 3) and its boxes, the scores of each embedder; with those of the paper comes `count_correct`."""
        from mudi.embed import embed, square_crop

        counted = self.forms is FORMS
        scores = [[score_count(boxes, len(combination.objects), self.detected_by)] if counted else [] for boxes in detections]
        cut = self.cut or square_crop
        crops = [cut(image, box.box_xyxy) for image, boxes in zip(images, detections, strict=True) for box in boxes]
        ends = np.cumsum([len(boxes) for boxes in detections])
        for embedder in self.embedders:
            references = self._references(combination.objects)[embedder.kind]
            reference_similarity = reference_matrix(references)
            similarity = similarity_matrix(embed(embedder, crops).numpy(), references)
            scorer = f"{self.detected_by} | {embedder.kind} {embedder.name}"
            for image_scores, end, boxes in zip(scores, ends, detections, strict=True):
                of = Matrices(
                    similarity=similarity[end - len(boxes) : end], reference_similarity=reference_similarity,
                    confidences=np.array([box.confidence for box in boxes]),
                )  # fmt: skip
                image_scores.extend(score_image(of, self.forms, embedder.kind, scorer, boxes))
        return [tuple(image_scores) for image_scores in scores]

    def _references(self, subjects: tuple[Subject, ...]) -> dict[str, list[np.ndarray]]:
        """Embedder kind -> one (R_j, D) a subject."""
        from mudi.embed import embed

        if subjects not in self._reference_embeddings:
            photos = [[self.photo(reference) for reference in subject.references] for subject in subjects]
            self._reference_embeddings[subjects] = {
                embedder.kind: [embed(embedder, subject_photos).numpy() for subject_photos in photos] for embedder in self.embedders
            }
        return self._reference_embeddings[subjects]


class DetectAndCompare:
    """Images of a combination to scores: detect its subjects, then compare each box with their photos."""

    MODELS = ("detector", "embedders")
    # Every name this metric can yield, and whether higher is better.
    NAMES = {"count_correct": True} | {f"dnc_{form}_{kind}": True for kind in EMBEDDER_KINDS for form in ("linear", "max", "gt")}

    def __init__(
        self, device: str = "cpu", detector: str = "miniature", embedders: Mapping[str, str] | None = None, threshold: float = 0.4,
        **compared: Any,
    ):  # fmt: skip
        """Loads the models once.

        embedders: kind (dreamsim, dinov2) -> name of its weights; both of the miniature if not given.
        threshold: least confidence of a box; the released code uses 0.4 in its evaluation and 0.25 as default.
        compared: keyword arguments of `Compare`, for metrics that compare otherwise.
        """
        from mudi.models import load_detector, load_embedder

        self.detector = load_detector(detector, device)
        self.threshold = threshold
        chosen = embedders or dict.fromkeys(EMBEDDER_KINDS, "miniature")
        loaded = [load_embedder(kind, name, device) for kind, name in chosen.items()]
        self.compare = Compare(loaded, f"owlv2 {self.detector.name} > {threshold}", **compared)

    def __call__(self, images: Sequence[np.ndarray], prompt: Prompt, combination: Combination) -> list[tuple[Score, ...]]:
        """For each image uint8 (H, W, 3), its scores. The prompt plays no part: only the subjects count."""
        from mudi.detect import detect

        queries = [subject.detection_query for subject in combination.objects]
        detections = detect(self.detector, images, [queries] * len(images), self.threshold)
        return self.compare(images, detections, combination)


def _checked(similarity: np.ndarray) -> np.ndarray:
    """The matrix in float64, once it is known to be one that can be scored."""
    matrix = np.asarray(similarity, dtype=np.float64)
    if matrix.ndim != 2 or matrix.shape[1] < 1 or not np.isfinite(matrix).all():
        raise ValueError(f"similarity is {matrix.tolist()}; give finite cosines, one row a box and one column a subject")
    return matrix


def _box_details(boxes: Sequence[Detection], subjects: int) -> dict:
    """What was detected, and why the scores are zero where the number of boxes is wrong."""
    details = {"boxes": [list(box.box_xyxy) for box in boxes], "confidences": [box.confidence for box in boxes]}
    if len(boxes) != subjects:
        details["reason"] = f"{len(boxes)} boxes for {subjects} subjects"
    return details
