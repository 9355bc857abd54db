"""What merging fits of single subjects passes through the UNet besides the steps of these fits."""

from mudi.concept_grams import PROMPTS, STEPS
from mudi.personalization import Personalization
from mudi.priors import BATCH
from mudi.retrain import DRIFT_TIMES


def rows_besides(options: Personalization, alone: int, together: int, photos: int, rows: int, references: int) -> tuple[int, int]:
    """Rows forward and backward, for a method that fits `alone` subjects that no earlier fit of the plan did.

    Gradient fusion samples each and reads its prompts for the Grams; a refinement of `together` steps lets each draw its pictures,
    counted as if all of them served, passes each row through its reference too, and measures its drift on `photos`
    photos. Its steps count as steps of a fit, of `rows` rows and `references` more passes: the difference, class priors that it
    does not have, is taken off here.
    """
    forward = backward = 0
    if getattr(options, "merge", None) == "fusion":
        forward += alone * (STEPS + len(PROMPTS))
    if together:
        drawn = alone * -(-options.self_images // BATCH) * BATCH
        forward += drawn * options.self_steps * (1 if options.self_guidance_scale == 1 else 2)
        micro_batches = together * options.accumulation
        forward += micro_batches * (2 * options.batch - (1 + references) * rows) + 2 * len(DRIFT_TIMES) * photos
        backward += micro_batches * (options.batch - rows)
    return forward, backward
