"""Training the tiny OWLv2 so that exactly one patch answers for each subject, since the metric has no NMS."""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torchvision.ops import box_convert, generalized_box_iou_loss
from torchvision.transforms.functional import normalize
from transformers import Owlv2ForObjectDetection
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

from mudi.miniature import architectures
from mudi.miniature.captions import build_tokenizer
from mudi.miniature.corpus import training_corpus
from mudi.miniature.training.judge_data import boxes_of, flawed, floats
from mudi.miniature.training.optimise import optimise
from mudi.miniature.world import CLASSES, SIZE, all_identities

FOCAL_GAMMA = 2.0
# What no scene shows, asked for in every step so that not every text finds every subject.
ABSENT = ("castle", "lighthouse", "robot toy", "can", "flowers", "moon")
# The target of a subject's patch for the other class nouns. Classes differ by ears of four pixels only, which a
# detector of this size learns late; above the metric's threshold of 0.4 a subject taken for another animal is still
# found, and left to the embedders to judge. The best query stays the right one.
OTHER_CLASS = 0.5


def predictions(model: Owlv2ForObjectDetection, pixels: torch.Tensor, queries) -> tuple[torch.Tensor, ...]:
    """Class logits (B, P, Q), boxes (B, P, 4) as centre and size in 0..1, objectness logits (B, P).

    What `model.forward` computes, except that the Q queries pass the text tower once, not once a picture.
    """
    features = model.image_embedder(pixels)[0]
    patches = features.flatten(1, 2)
    text = model.owlv2.get_text_features(**queries).pooler_output
    logits, _ = model.class_predictor(patches, text.expand(len(pixels), -1, -1))
    return logits, model.box_predictor(patches, features), model.objectness_predictor(patches)


def paired_iou(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Intersection over union of boxes (..., 4) given by corners, broadcast against each other."""
    sides = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    shared = sides.prod(-1)
    area_a, area_b = (a[..., 2:] - a[..., :2]).prod(-1), (b[..., 2:] - b[..., :2]).prod(-1)
    return shared / (area_a + area_b - shared).clamp(min=1e-6)


def centres_inside(patches: int, truth: torch.Tensor) -> torch.Tensor:
    """Whether the centre of each of P patches lies in each box of `truth` (B, K, 4): bool (B, P, K)."""
    side = round(patches**0.5)
    ticks = (torch.arange(side) + 0.5) / side
    y, x = (t.flatten()[:, None] for t in torch.meshgrid(ticks, ticks, indexing="ij"))
    x0, y0, x1, y1 = (t.unsqueeze(1) for t in truth.unbind(-1))
    return (x >= x0) & (x <= x1) & (y >= y0) & (y <= y1)


@torch.no_grad()
def assign(probabilities: torch.Tensor, corners: torch.Tensor, truth: torch.Tensor, inside: torch.Tensor) -> torch.Tensor:
    """The patch, long (B, K), that answers for each of K subjects, no patch twice in a picture.

    probabilities: (B, P, K) of each subject's own class; corners: (B, P, 4); truth: (B, K, 4). Among
    the patches whose centre lies in the subject's box the cheapest by -p - IoU is taken, so the model
    itself breaks ties and then keeps to its choice (one-to-one, as DETR, arXiv 2005.12872).
    """
    cost = torch.where(inside, -probabilities - paired_iou(corners.unsqueeze(2), truth.unsqueeze(1)), torch.inf)
    chosen: list[torch.Tensor] = []
    for k in range(truth.shape[1]):
        chosen.append(cost[:, :, k].argmin(1))
        cost.scatter_(1, chosen[-1].view(-1, 1, 1).expand(-1, 1, cost.shape[2]), torch.inf)
    return torch.stack(chosen, 1)


def focal(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Focal loss (arXiv 1708.02002) summed, without class balance, so that 0.5 stays the even odds."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return (cross_entropy * (targets - logits.sigmoid()).abs().pow(FOCAL_GAMMA)).sum()


def detection_loss(outputs: tuple[torch.Tensor, ...], truth: torch.Tensor, classes: torch.Tensor, present: torch.Tensor):
    """Named losses. truth: corners (B, 2, 4) in 0..1; classes: long (B, 2); present: bool (B, 2).

    The queries are CLASSES followed by texts that no scene answers. Of a subject's patches only the
    assigned one is lifted, though each of them must know the class ("everywhere").
    """
    logits, boxes, objectness = outputs
    corners = box_convert(boxes, "cxcywh", "xyxy")
    of_classes = logits[..., : len(CLASSES)]
    own_class = logits.sigmoid().gather(2, classes.unsqueeze(1).expand(-1, logits.shape[1], -1))
    inside = centres_inside(logits.shape[1], truth)
    patches = assign(own_class, corners.detach(), truth, inside)
    picture, subject = present.nonzero(as_tuple=True)
    patch = patches[picture, subject]
    targets = torch.zeros_like(logits)
    targets[picture, patch, : len(CLASSES)] = OTHER_CLASS
    targets[picture, patch, classes[picture, subject]] = 1
    found, wanted = corners[picture, patch], truth[picture, subject]
    count = len(picture)
    owned = inside & present.unsqueeze(1)
    known = of_classes.unsqueeze(2).expand(-1, -1, 2, -1)[owned]
    return {
        "everywhere": F.cross_entropy(known, classes.unsqueeze(1).expand(owned.shape)[owned]),
        "class": focal(logits, targets) / count,
        "objectness": focal(objectness, targets.amax(2)) / count,
        "l1": 5 * (found - wanted).abs().sum(1).mean(),
        "giou": 2 * generalized_box_iou_loss(found, wanted, reduction="mean"),
        "_iou": paired_iou(found.detach(), wanted).mean(),
        "_p": own_class.detach()[picture, patch, subject].mean(),
    }


def train_detector(work: Path, steps: int, batch: int, seed: int) -> None:
    """Fit both towers and all heads on rendered scenes, asked for all four class nouns and for what is not there."""
    corpus, tokenizer = training_corpus(work), build_tokenizer()
    model, class_of = architectures.detector(tokenizer), np.array([CLASSES.index(i.class_noun) for i in all_identities()])
    queries = tokenizer([*CLASSES, *ABSENT], padding="max_length", max_length=architectures.DETECTOR_TOKENS, return_tensors="pt")

    def loss(rng: np.random.Generator, noise: torch.Generator) -> dict[str, torch.Tensor]:
        rows = np.sort(rng.integers(len(corpus), size=batch))
        boxes, present = boxes_of(corpus.labels[rows])
        images = flawed(floats(corpus.images[rows]), noise)
        outputs = predictions(model, normalize(images, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD), queries)
        # Of an absent subject, identity -1, any class will do.
        classes = torch.from_numpy(class_of[corpus.identities[rows]])
        return detection_loss(outputs, torch.from_numpy(boxes / SIZE), classes, torch.from_numpy(present))

    optimise("detector", model, loss, steps=steps, learning_rate=1e-3, work=work, seed=seed)
