"""The gate of the tiny diffusion models: how often they draw both subjects right when the caption says everything.

No method that starts from a base draws its subjects better than the base draws subjects that it is told, so this bounds them all.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mudi.backbone import Backbone
from mudi.miniature.gates.judges import Gate, held_out_pairs
from mudi.miniature.gates.oracle import traits
from mudi.miniature.sheet import draw_captions, full_caption
from mudi.model_facts import MINIATURE_SD
from mudi.models import load
from mudi.oracle import judge, load_oracle, verdict

GUIDANCES = (1.5, 2.5, 4.0, 6.0)
STEPS = 16
LEAST, BOTH = 0.7, "both right"


def check_base(weights: Path, pairs: int = 40, pictures: int = 4) -> list[Gate]:
    """Both families in the folder `weights`: for each guidance the share of pictures of held-out pairs in which the oracle finds both,
    every attribute right. The gate is on the best of the tiny SDXL's; 160 pictures each leave a standard error of .04."""
    gates = base_gates(load(str(weights)), "miniature", weights, pairs, pictures)
    best = max(gate.value for gate in gates if BOTH in gate.name)
    gates.append(Gate(name=f"miniature, full captions: {BOTH}, best", value=best, threshold=LEAST))
    return gates + base_gates(load(str(weights / "one_encoder")), MINIATURE_SD, weights, pairs, pictures)


def base_gates(
    backbone: Backbone, label: str, weights: Path, pairs: int, pictures: int, guidances: Sequence[float] = GUIDANCES
) -> list[Gate]:
    """The shares of one family, the same noise for every guidance."""
    oracle, scenes = load_oracle(weights / "oracle", "cpu", "miniature"), held_out_pairs(np.random.default_rng(6), pairs)
    rows = [scene for scene in scenes for _ in range(pictures)]
    captions, gates = list(map(full_caption, rows)), []
    wanted = [[traits(oracle, identity) for identity in scene.identities] for scene in rows]
    for guidance in guidances:
        images = draw_captions(backbone, captions, list(range(len(rows))), STEPS, guidance)
        verdicts = [verdict(reading, pair, None) for reading, pair in zip(judge(oracle, images), wanted, strict=True)]
        for name, key in ((BOTH, "success"), ("mean identity", "identity")):
            value = float(np.mean([answer[key] for answer in verdicts]))
            gates.append(Gate(name=f"{label}, full captions, guidance {guidance:g}: {name}", value=value))
    return gates
