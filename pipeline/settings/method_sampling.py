"""Keys of `sampling` that a file leaves out: how the method that draws would have them, written into the file as it is read.

So what is stored, hashed and planned are the values that are drawn with. A method that does not exist is left for later, where
it is refused.
"""

import json
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from pipeline.settings.benchmark_config import Arm, BenchmarkConfig
from pipeline.settings.config import RunConfig, Sampling


def of_run(config: RunConfig) -> RunConfig:
    """The run with its method's own `sampling` where the file says nothing."""
    own = _differing(config.method.name, config.sampling, config.sampling.model_fields_set)
    return config.model_copy(update={"sampling": _with(config.sampling, own)}) if own else config


def of_benchmark(config: BenchmarkConfig) -> BenchmarkConfig:
    """The benchmark with each method's own `sampling`, where neither the file nor the arm says otherwise, as keys of the arm.

    Arms that are `like` another, or a refit of one, take what that has. A file without any `sampling` says what
    `BenchmarkConfig` does: no mean shift and no negative prompt.
    """
    said = config.sampling.model_fields_set
    arms = {label: _of_arm(arm, config.sampling, said) for label, arm in config.methods.items()}
    return config.model_copy(update={"methods": arms})


def _of_arm(arm: Arm, common: Sampling, said: Collection[str]) -> Arm:
    own = {} if arm.method is None else _differing(arm.method, common, {*said, *arm.sampling})
    return arm.model_copy(update={"sampling": {**own, **arm.sampling}}) if own else arm


def _differing(method: str, common: Sampling, said: Collection[str]) -> dict[str, Any]:
    """What the method draws with and `common` has otherwise, of the keys that nobody said."""
    # The methods import torch, which a report, that only knows the models of files, does without.
    from mudi.methods import METHODS

    if method not in METHODS:
        return {}
    own = asdict(METHODS[method]().sampling)
    return {key: value for key, value in own.items() if key not in said and value != getattr(common, key)}


def _with(sampling: Sampling, values: dict[str, Any]) -> Sampling:
    return Sampling.model_validate_json(json.dumps({**sampling.model_dump(mode="json"), **values}))
