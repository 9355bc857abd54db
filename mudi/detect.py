"""Text queries to boxes with OWLv2: every box above the threshold, without suppression or a limit on their number."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from mudi.records import Box, Detection

if TYPE_CHECKING:
    from transformers import Owlv2ForObjectDetection, Owlv2Processor


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A loaded OWLv2 and the processor saved with it."""

    name: str
    model: "Owlv2ForObjectDetection"
    processor: "Owlv2Processor"


def detect(
    detector: Detector, images: Sequence[np.ndarray], queries: Sequence[Sequence[str]], threshold: float = 0.4, batch: int = 8
) -> list[tuple[Detection, ...]]:
    """For each image uint8 (H, W, 3), the boxes whose best query scores above `threshold`, as MuDI's metric takes them.

    The queries are asked as they stand ("monster toy"), without a template, as in MuDI's evaluation code. A query
    given twice for an image is asked once. A box carries the query it answers best. Boxes are clipped to the image;
    those wholly inside the padding of a non-square image are dropped.
    batch: images in one forward pass; bounds memory and moves values by rounding only.
    """
    if len(images) != len(queries):
        raise ValueError(f"{len(images)} images but {len(queries)} lists of queries; give one list for each image")
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold {threshold} is outside 0..1; the metric uses 0.4")
    groups: dict[tuple[str, ...], list[int]] = {}
    for index, asked in enumerate(queries):
        groups.setdefault(tuple(dict.fromkeys(asked)), []).append(index)
    found: list[tuple[Detection, ...]] = [()] * len(images)
    for asked, indices in groups.items():
        for start in range(0, len(indices), batch):
            members = indices[start : start + batch]
            for index, detections in zip(members, _detect_group(detector, [images[i] for i in members], asked, threshold), strict=True):
                found[index] = detections
    return found


@torch.no_grad()
def _detect_group(
    detector: Detector, images: list[np.ndarray], queries: tuple[str, ...], threshold: float
) -> list[tuple[Detection, ...]]:  # fmt: skip
    model, processor = detector.model, detector.processor
    tokens = _tokens(detector, queries)
    pixels = processor.image_processor(images, input_data_format="channels_last", return_tensors="pt", device=model.device).pixel_values
    outputs = model(
        # The model wants the texts once for each image, image by image.
        input_ids=tokens.input_ids.repeat(len(images), 1).to(model.device),
        attention_mask=tokens.attention_mask.repeat(len(images), 1).to(model.device),
        pixel_values=pixels.to(model.device, model.dtype),
    )
    sizes = [image.shape[:2] for image in images]
    results = processor.post_process_grounded_object_detection(outputs, threshold=threshold, target_sizes=sizes)
    return [_inside(result, queries, size) for result, size in zip(results, sizes, strict=True)]


def _tokens(detector: Detector, queries: tuple[str, ...]):
    """Token ids and mask (Q, T) padded to the text tower's length; ValueError for a query that does not fit."""
    if not queries or not all(query.strip() for query in queries):
        raise ValueError(f"queries {list(queries)}: give at least one query and no empty one, for example 'dog'")
    length = detector.model.config.text_config.max_position_embeddings
    for query, ids in zip(queries, detector.processor.tokenizer(list(queries)).input_ids, strict=True):
        if len(ids) > length:
            raise ValueError(f"query {query!r} is {len(ids)} tokens long and {detector.name} reads {length}; shorten detection_query")
    return detector.processor.tokenizer(list(queries), padding="max_length", max_length=length, return_tensors="pt")


def _inside(result: dict, queries: tuple[str, ...], size: tuple[int, int]) -> tuple[Detection, ...]:
    """The detections of one image of size (H, W), clipped to it, in the order of the model's patches."""
    height, width = size
    detections = []
    for box, score, label in zip(result["boxes"].tolist(), result["scores"].tolist(), result["labels"].tolist(), strict=True):
        x0, x1 = (min(max(x, 0.0), float(width)) for x in box[::2])
        y0, y1 = (min(max(y, 0.0), float(height)) for y in box[1::2])
        if x1 > x0 and y1 > y0:
            clipped: Box = (x0, y0, x1, y1)
            detections.append(Detection(box_xyxy=clipped, confidence=score, query=queries[label]))
    return tuple(detections)
