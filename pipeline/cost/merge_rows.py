"""What merging fits of single subjects takes besides their steps: what is collected and drawn of each, and rows through the UNet."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from mudi.adapter_size import TEXT
from mudi.merging.concept_grams import PROMPTS, STEPS
from mudi.personalization import Personalization
from mudi.prior_folder import BATCH
from mudi.retrain import DRIFT_TIMES


def unplanned(places: Iterable[Path], planned: set[Path]) -> list[Path]:
    """Those of the places that are not `planned` yet, each once; they are then."""
    mine = [place for place in dict.fromkeys(places) if place not in planned]
    planned.update(mine)
    return mine


def collected(options: Personalization, singles: Sequence[Path], planned: set[Path]) -> int:
    """Of how many of the subjects whose own fits lie in `singles` gradient fusion collects Grams that no earlier fit of the plan did.

    They lie beside the subject's fit, which an arm that merges otherwise may have made before.
    """
    if getattr(options, "merge", None) != "fusion":
        return 0
    return len(unplanned((single.with_name(f"{single.name}.grams") / options.kv_positions for single in singles), planned))


def drawn(options: Personalization, singles: Sequence[Path], together: int, planned: set[Path]) -> int:
    """The pictures that these subjects' own fits draw for a refinement of `together` steps, and did for no earlier fit of the plan.

    In whole batches, counted as if every picture served.
    """
    if not together:
        return 0
    how = repr((options.self_steps, options.self_guidance_scale, options.self_negative_prompt))
    places = [single.with_name(f"{single.name}.pictures") / how for single in singles]
    batches = range(-(-options.self_images // BATCH))
    return len(unplanned((place / str(batch) for place in places for batch in batches), planned)) * BATCH


def rows_besides(
    options: Personalization, grams: int, pictures: int, together: int, photos: int, rows: int, references: int
) -> tuple[int, int]:  # fmt: skip
    """Rows forward and backward, for a method that collects the Grams of so many subjects and lets them draw so many pictures.

    Grams take a sample of each subject, unless the text feeds all of its LoRA, and a reading of its prompts; a refinement of
    `together` steps passes each row through its reference too, and measures its drift on `photos` photos. Its steps count as steps
    of a fit, of `rows` rows and `references` more passes: the difference, class priors that it does not have, is taken off here.
    """
    sampled = any(not TEXT.fullmatch(target) for target in options.lora_targets or ())
    forward, backward = grams * (STEPS * sampled + len(PROMPTS)), 0
    if together:
        forward += pictures * options.self_steps * (1 if options.self_guidance_scale == 1 else 2)
        micro_batches = together * options.accumulation
        forward += micro_batches * (2 * options.batch - (1 + references) * rows) + 2 * len(DRIFT_TIMES) * photos
        backward += micro_batches * (options.batch - rows)
    return forward, backward
