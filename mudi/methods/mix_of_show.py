"""Mix-of-Show (arXiv 2305.18292): an ED-LoRA of each subject alone, token rows and matrices, then gradient fusion."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from mudi.methods.merged_loras import Merge, MergedLoras


@dataclass(frozen=True, kw_only=True)
class MixOfShow(MergedLoras):
    """Hyperparameters: those of `MergedLoras` with an `EDLora` for each subject and the paper's merge.

    Departure: with UNet LoRAs alone there is no stage that fuses text encoders, and one closed form stands for the paper's
    L-BFGS on keys and values and then on the other layers.
    """

    name: ClassVar[str] = "mix_of_show"
    any_single: ClassVar[bool] = False
    single: Literal["ed_lora"] = "ed_lora"
    merge: Merge | None = "fusion"
