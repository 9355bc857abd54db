"""Linear probes that teach a vision tower what its patches show, while it learns something else; dropped afterwards.

A reward is one number a picture and says little of what was wrong with it: without probes the tiny ImageReward had learnt to
see spoilt pictures after 450 steps and no seams.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from mudi.miniature.corpus import BACKGROUND_NAMES, Corpus
from mudi.miniature.world import ACCESSORIES, CLASSES, COLOURS, SIZE

ATTRIBUTES = (len(CLASSES), len(COLOURS), len(COLOURS), len(ACCESSORIES), len(COLOURS) + 1)
PICTURE_KINDS = ("clean", "stitched", "spoilt")


class Probes(nn.Module):
    """Linear layers on the tokens of a vision tower of `width`: attributes and place of each patch, the kind of the picture."""

    def __init__(self, width: int):
        super().__init__()
        self.attributes = nn.ModuleList([nn.Linear(width, count) for count in ATTRIBUTES])
        self.place = nn.Linear(width, len(BACKGROUND_NAMES))
        self.kind = nn.Linear(width, len(PICTURE_KINDS))


def probe_loss(probes: Probes, tokens: torch.Tensor, corpus: Corpus, rows: np.ndarray, codes: np.ndarray) -> dict[str, torch.Tensor]:
    """Cross entropies of what the patches of scenes `rows` show.

    tokens: (B, 1 + P, width), class token first; a patch shows what its centre shows: the subject's five attributes, or
    the background. codes: attribute codes of every identity, as `train_embedders.attribute_codes` gives them.
    """
    side = round((tokens.shape[1] - 1) ** 0.5)
    centres = np.arange(side) * SIZE // side + SIZE // side // 2
    labels = corpus.labels[rows][:, centres][:, :, centres].reshape(len(rows), -1).astype(np.int64)
    picture, patch = np.nonzero(labels)
    wanted = torch.from_numpy(codes[corpus.identities[rows][picture, labels[picture, patch] - 1]].astype(np.int64))
    shown = tokens[:, 1:][torch.from_numpy(picture), torch.from_numpy(patch)]
    picture, patch = np.nonzero(labels == 0)
    places = torch.from_numpy(corpus.backgrounds[rows][picture].astype(np.int64))
    behind = tokens[:, 1:][torch.from_numpy(picture), torch.from_numpy(patch)]
    attributes = [F.cross_entropy(probe(shown), wanted[:, n]) for n, probe in enumerate(probes.attributes)]
    return {"attributes": torch.stack(attributes).mean(), "place": F.cross_entropy(probes.place(behind), places)}
