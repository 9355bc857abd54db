"""DreamBooth (arXiv 2208.12242) with a LoRA, all subjects fitted jointly: what MuDI is measured against first."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from mudi.backbone import Backbone
from mudi.options import Sampling
from mudi.personalization import PhotoFit
from mudi.records import Adapter, Combination, Report


@dataclass(frozen=True, kw_only=True)
class DreamBooth(PhotoFit):
    """Hyperparameters: 1000 steps and rank 32 as in MuDI's tables; plain noise and no negative prompt."""

    name: ClassVar[str] = "dreambooth"
    steps: int = 1000
    rank: int = 32
    sampling: Sampling = field(default_factory=lambda: Sampling(negative_prompt=None, gamma=0.0))

    def train(self, backbone: Backbone, combination: Combination, out_dir: Path, seed: int, report: Report | None = None) -> Adapter:
        """Fit a fresh LoRA on the plain photos of all subjects and store it in `out_dir`."""
        from mudi.first_fit import Training, personalize

        return personalize(self, backbone, combination, out_dir, seed, Training(lora=self.lora()), report)
