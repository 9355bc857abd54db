"""Named recipes of parts: values of `Modular`, of which a run file may change any part but the single fit of those that have a paper."""

from dataclasses import replace

from mudi.merging.recipes import Constrained, Fusion
from mudi.methods.custom_diffusion import CustomDiffusion
from mudi.methods.dreambooth import DreamBooth
from mudi.methods.ed_lora import EDLora
from mudi.methods.modular import Modular
from mudi.options import Refine, Sampling

MODULAR = Modular()
# The plain default: a sum of DreamBooths.
MERGED_LORAS = replace(MODULAR, name="merged_loras")
# Mix-of-Show (arXiv 2305.18292): an ED-LoRA of each subject alone, token rows and matrices, then gradient fusion. Departure: with
# UNet LoRAs alone there is no stage that fuses text encoders, and one closed form stands for the paper's L-BFGS on keys and
# values and then on the other layers.
MIX_OF_SHOW = Modular(name="mix_of_show", single=EDLora(), merge=Fusion())
# Custom Diffusion (arXiv 2212.04488) of each subject alone, then its constrained merge. Departures: a LoRA and a rare word's own
# row per subject, as in `CustomDiffusion`, where the paper has full matrices and new words; the merge itself is of full matrices.
CUSTOM_DIFFUSION_MERGED = Modular(name="custom_diffusion_merged", single=CustomDiffusion(steps=500), merge=Constrained())
# MuDI's modular customisation (arXiv 2404.04243): LoRAs of single subjects, merged, then taught apart on pictures of their own.
# Drawing starts from mean-shifted noise of the user's own photos, as MuDI's. Ours, since the paper does not say it: gradient
# fusion, as it names no one merge; the KL weight, stated for self-training only; the rate, that of the fit. Departure: token
# rows have no part here; `modular` refines fits that have them.
MUDI_MODULAR = Modular(name="mudi_modular", single=DreamBooth(), merge=Fusion(), refine=Refine(), sampling=Sampling())
