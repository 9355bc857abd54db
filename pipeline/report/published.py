"""The paper's numbers (Jang et al., arXiv 2404.04243v1), to stand beside ours, never to be compared by value.

They are of SDXL at 1024 pixels, eight combinations of photos, 40 prompts that were not published, and judges of
full size: only which of two methods is ahead can be compared. Sources: Table 1 (D&C, ImageReward, CLIP score,
people), Table 2 (the "max" form), the ablation table, and Fig. 10 (agreement of each score with people).
"""

PUBLISHED: dict[tuple[str, str], float] = {
    ("textual_inversion", "dnc_linear_dreamsim"): 0.021,
    ("textual_inversion", "dnc_max_dreamsim"): 0.213,
    ("textual_inversion", "dnc_linear_dinov2"): 0.019,
    ("textual_inversion", "dnc_max_dinov2"): 0.211,
    ("textual_inversion", "image_reward"): -0.149,
    ("textual_inversion", "clip_text"): 0.227,
    ("textual_inversion", "oracle_success"): 0.003,
    ("dreambooth", "dnc_linear_dreamsim"): 0.147,
    ("dreambooth", "dnc_max_dreamsim"): 0.696,
    ("dreambooth", "dnc_linear_dinov2"): 0.105,
    ("dreambooth", "dnc_max_dinov2"): 0.627,
    ("dreambooth", "image_reward"): 0.579,
    ("dreambooth", "clip_text"): 0.255,
    ("dreambooth", "oracle_success"): 0.095,
    ("custom_diffusion", "dnc_linear_dreamsim"): 0.105,
    ("custom_diffusion", "dnc_linear_dinov2"): 0.078,
    ("custom_diffusion", "image_reward"): 0.144,
    ("custom_diffusion", "clip_text"): 0.243,
    ("cut_mix", "dnc_linear_dreamsim"): 0.237,
    ("cut_mix", "dnc_max_dreamsim"): 0.800,
    ("cut_mix", "dnc_linear_dinov2"): 0.181,
    ("cut_mix", "dnc_max_dinov2"): 0.703,
    ("cut_mix", "image_reward"): -0.287,
    ("cut_mix", "clip_text"): 0.225,
    ("cut_mix", "oracle_success"): 0.357,
    ("mudi", "dnc_linear_dreamsim"): 0.434,
    ("mudi", "dnc_max_dreamsim"): 0.998,
    ("mudi", "dnc_linear_dinov2"): 0.293,
    ("mudi", "dnc_max_dinov2"): 0.857,
    ("mudi", "image_reward"): 0.770,
    ("mudi", "clip_text"): 0.263,
    ("mudi", "oracle_success"): 0.703,
    ("mudi_without_seg_mix", "dnc_linear_dreamsim"): 0.236,
    ("mudi_without_seg_mix", "dnc_linear_dinov2"): 0.133,
    ("mudi_without_initialization", "dnc_linear_dreamsim"): 0.291,
    ("mudi_without_initialization", "dnc_linear_dinov2"): 0.195,
    ("mudi_without_descriptive_class", "dnc_linear_dreamsim"): 0.378,
    ("mudi_without_descriptive_class", "dnc_linear_dinov2"): 0.271,
}
"""(arm, score) -> the paper's mean. Under oracle_success stands the share that people called a success: where the
paper asked people, a benchmark of rendered subjects asks the oracle."""

PUBLISHED_VALIDITY: dict[str, tuple[float, float]] = {
    "image_dreamsim": (0.179, 0.606),
    "image_dinov2": (0.099, 0.559),
    "dnc_linear_dreamsim": (0.455, 0.764),
    "dnc_linear_dinov2": (0.414, 0.741),
}
"""Score -> (Spearman, AUROC) against people's good or bad, Fig. 10."""
