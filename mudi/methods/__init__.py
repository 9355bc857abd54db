"""The personalisation methods by name. A new one is a file here and a line below.

`METHODS[name](**values)` is the method as a frozen value; the values are those of a run file, parts of a recipe as mappings.
Files of methods and metrics declare; torch, diffusers, transformers, peft and scipy are imported inside the functions that
compute. A driver, a plan and a page ask declarations alone, and importing torch took 7 s and diffusers 28 s of CPU time on the
machine where that was measured.
"""

from functools import partial

from mudi.methods.concept_conductor import ConceptConductor
from mudi.methods.cones2 import cones2
from mudi.methods.custom_diffusion import CustomDiffusion
from mudi.methods.cut_mix import CutMix
from mudi.methods.dreambooth import DreamBooth
from mudi.methods.modular import composed
from mudi.methods.mudi import MuDI
from mudi.methods.presets import CUSTOM_DIFFUSION_MERGED, MERGED_LORAS, MIX_OF_SHOW, MODULAR, MUDI_MODULAR
from mudi.methods.textual_inversion import TextualInversion

METHODS = {
    "mudi": MuDI,
    "dreambooth": DreamBooth,
    "cut_mix": CutMix,
    "textual_inversion": TextualInversion,
    "custom_diffusion": CustomDiffusion,
    "concept_conductor": ConceptConductor,
    "cones2": cones2,
    "modular": partial(composed, MODULAR),
    "merged_loras": partial(composed, MERGED_LORAS),
    "custom_diffusion_merged": partial(composed, CUSTOM_DIFFUSION_MERGED),
    "mix_of_show": partial(composed, MIX_OF_SHOW),
    "mudi_modular": partial(composed, MUDI_MODULAR),
}
