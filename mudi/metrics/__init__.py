"""The metrics a run can ask for, by name: each maps images, a prompt and a combination to named scores."""

from mudi.metrics.detect_and_compare import DetectAndCompare

METRICS = {"detect_and_compare": DetectAndCompare}
