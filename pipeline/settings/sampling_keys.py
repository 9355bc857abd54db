"""`sampling` of a file: its keys are mudi's own and the batch, completed by the method, checked together, stored without later ones."""

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from mudi.methods import METHODS
from mudi.options import Sampling, check_each
from pipeline.settings.run_file import mistake_in
from pipeline.settings.strict import Count, Settings

SAMPLINGS = TypeAdapter(dict[str, Sampling], config=Settings.model_config)


@dataclass(frozen=True, kw_only=True)
class BatchedSampling(Sampling):
    """`sampling` of a file. Keys that exclude each other are refused by `checked_sampling`, once the method has said the rest."""

    batch: Count = 8
    """Images of one chunk, drawn together. Changes pixels in the last bits, so it is part of the run's identity."""

    def __post_init__(self) -> None:
        check_each(self)

    @property
    def keys(self) -> dict[str, Any]:
        """All but the batch."""
        return {field.name: getattr(self, field.name) for field in fields(Sampling)}


def checked_sampling(place: str, keys: Mapping[str, Any]) -> Sampling:
    """Keys that were put together from several places of a file, as mudi's own value; ValueError of one line from the `place` on."""
    try:
        return SAMPLINGS.validate_json(json.dumps({place: keys}, default=asdict))[place]
    except ValidationError as error:
        raise ValueError(mistake_in(dict[str, Sampling], error)[1]) from None


def own_sampling(method: str, said: Collection[str]) -> dict[str, Any]:
    """The method's own `sampling`, but for keys that the file has `said`. A file is stored, hashed and planned with it filled in.

    Nothing for a method that does not exist, which is refused where methods are made.
    """
    if method not in METHODS:
        return {}
    return {key: value for key, value in vars(METHODS[method]().sampling).items() if key not in said}
