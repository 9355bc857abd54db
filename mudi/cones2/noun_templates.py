"""Short sentences around a class noun, and the mean over them of what a tuning made of the noun's states (Cones 2)."""

from typing import TYPE_CHECKING

from mudi.backbone import Backbone
from mudi.text.spans import Span, token_spans

if TYPE_CHECKING:
    import torch

TEMPLATES = (
    "a photo of a {}", "a picture of a {}", "an image of a {}", "a photo of the {}", "a picture of the {}", "a photo of one {}",
    "a photo of my {}", "a photo showing a {}", "a clear photo of a {}", "a blurry photo of a {}", "a bright photo of a {}",
    "a dark photo of a {}", "a sharp picture of the {}", "a cropped photo of the {}", "a photo taken near a {}",
    "a large photo of the {}", "a good photo of my {}", "a poor photo of a {}", "a color photo of a {}", "a photo of a small {}",
    "a photo of a big {}", "a photo of a clean {}", "a photo of a nice {}", "a photo of a lovely {}", "a picture with a {} in it",
    "there is a {} in the photo", "this is a {}",
)  # fmt: skip


def sentences(words: str) -> list[str]:
    """Every template with the noun filled in."""
    return [template.replace("{}", words) for template in TEMPLATES]


def spans_of(backbone: Backbone, words: str) -> list[Span]:
    """Where the noun's tokens stand in each sentence."""
    return [token_spans(backbone, sentence, [words])[0] for sentence in sentences(words)]


def template_mean(backbone: Backbone, words: str, tuned: "torch.Tensor", untuned: "torch.Tensor") -> "torch.Tensor":
    """The mean over all sentences of tuned minus untuned states at the noun's tokens: float32 (K, D) from twice (B, T, D).

    Source: Cones 2 (arXiv 2305.19327), whose released code averages over 27 templates of CLIP's kind; these say the same in
    other words. Departure: the release finds the noun by the first token of it and takes that one alone; here the whole
    span is found and kept, so nouns of several tokens work.
    """
    import torch

    spans = torch.tensor(spans_of(backbone, words), device=tuned.device)
    rows = torch.arange(len(spans), device=tuned.device)[:, None]
    return (tuned.float()[rows, spans] - untuned.float()[rows, spans]).mean(0)
