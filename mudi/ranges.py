"""The ranges of hyperparameters by their names, in whichever frozen value they stand."""

from dataclasses import fields

# Models of 1000 training timesteps whose steps are laid one later, as SDXL and Stable Diffusion ship, have no more.
MOST_STEPS = 999
RANGES = {
    **dict.fromkeys(("steps", "batch", "accumulation", "rank", "images"), (int, 1, 1e7)),
    **dict.fromkeys(("prior_steps", "sample_steps"), (int, 1, MOST_STEPS)),
    **dict.fromkeys(("prior_images", "mix_from_step"), (int, 0, 1e7)),
    **dict.fromkeys(("mix_probability", "mix_probability_many", "background_weight", "noise_offset"), (int | float, 0, 1)),
    **dict.fromkeys(("learning_rate", "row_learning_rate", "dco_beta"), (int | float, 1e-12, 1e6)),
    **dict.fromkeys(("prior_weight", "prior_guidance_scale", "row_deviation", "kl_weight", "ridge"), (int | float, 0, 1e6)),
    **dict.fromkeys(("weight_decay", "mark_weight", "rest_weight", "neutral_weight", "guidance_scale"), (int | float, 0, 1e6)),
}


def require_ranges(value: object) -> None:
    """Raise ValueError for the first field of a frozen value that is out of its range; None passes where it is the default."""
    for of in fields(value):
        given = getattr(value, of.name)
        if of.name not in RANGES or (given is None and of.default is None):
            continue
        kind, low, high = RANGES[of.name]
        if not isinstance(given, kind) or isinstance(given, bool) or not low <= given <= high:
            raise ValueError(f"{of.name} = {given!r}: allowed are {'whole ' if kind is int else ''}numbers from {low:g} to {high:g}")
