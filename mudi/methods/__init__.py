"""The personalisation methods by name. A new one is a file here and a line below."""

from mudi.methods.concept_conductor import ConceptConductor
from mudi.methods.cones2 import Cones2
from mudi.methods.custom_diffusion import CustomDiffusion
from mudi.methods.custom_diffusion_merged import CustomDiffusionMerged
from mudi.methods.cut_mix import CutMix
from mudi.methods.dreambooth import DreamBooth
from mudi.methods.merged_loras import MergedLoras
from mudi.methods.mix_of_show import MixOfShow
from mudi.methods.mudi import MuDI
from mudi.methods.mudi_modular import MudiModular
from mudi.methods.textual_inversion import TextualInversion

METHODS = {
    "mudi": MuDI,
    "dreambooth": DreamBooth,
    "cut_mix": CutMix,
    "textual_inversion": TextualInversion,
    "custom_diffusion": CustomDiffusion,
    "concept_conductor": ConceptConductor,
    "cones2": Cones2,
    "custom_diffusion_merged": CustomDiffusionMerged,
    "merged_loras": MergedLoras,
    "mix_of_show": MixOfShow,
    "mudi_modular": MudiModular,
}
