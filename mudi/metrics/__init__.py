"""The metrics a run can ask for, by name: each maps images, a prompt and a combination to named scores.

A metric declares `NAMES`, the scores it can yield and whether higher is better, and `MODELS`, the keys of a run
file's `models` whose weights it is built with, as keyword arguments. `MAY_LACK` are those of its scores that some pictures have none
of; a score outside it that is stored as null was not computed. What computes is imported where it computes, as in `mudi.methods`.
"""

from mudi.metrics.clip_score import ClipScore
from mudi.metrics.detect_and_compare import DetectAndCompare
from mudi.metrics.identity_matrix import IdentityMatrix
from mudi.metrics.identity_oracle import IdentityOracle, require_truth
from mudi.metrics.image_reward import ImageRewardScore
from mudi.metrics.masked_compare import MaskedCompare
from mudi.metrics.whole_image import WholeImage

METRICS = {
    "detect_and_compare": DetectAndCompare,
    "identity_matrix": IdentityMatrix,
    "masked_compare": MaskedCompare,
    "whole_image": WholeImage,
    "clip_score": ClipScore,
    "image_reward": ImageRewardScore,
    "identity_oracle": IdentityOracle,
}

MAY_LACK = frozenset(name for metric in METRICS.values() for name in getattr(metric, "MAY_LACK", ()))

# Raises ValueError for a combination that the metric cannot judge, before anything is drawn.
CHECKS = {"identity_oracle": require_truth}
