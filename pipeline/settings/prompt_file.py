"""Prompt templates: given in a run's or benchmark's file for all combinations, or in a file with some for each."""

from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from pipeline.settings.benchmark_config import BenchmarkConfig
from pipeline.settings.config import RunConfig
from pipeline.settings.run_file import load_settings
from pipeline.settings.strict import Settings, Templates, Text
from pipeline.settings.subjects_file import FILE_NAME, read_subjects


class CombinationPrompts(Settings):
    evaluation: Templates
    """What is drawn and reported."""
    training: Templates
    """What the pools of self-training are drawn with; none of them is reported."""


class PromptFile(Settings):
    version: Annotated[int, Field(ge=1)]
    """Raised whenever a prompt changes, because results then do not compare."""
    source: Text
    """Where the prompts come from."""
    combinations: dict[str, CombinationPrompts]
    """Combination -> its prompts."""


@cache
def read_prompts(path: Path) -> PromptFile:
    """The prompt file at `path`, parsed once a process, since every cell of a benchmark asks.

    Raises ValueError of one line that names the place, also where a prompt is in both lists.
    """
    file = load_settings(PromptFile, path)
    for key, prompts in file.combinations.items():
        if both := sorted(set(prompts.evaluation) & set(prompts.training)):
            raise ValueError(f"{path}: combinations.{key}: {both[0]!r} is an evaluation and a training prompt; keep them apart")
    return file


def with_templates(config: RunConfig) -> RunConfig:
    """A run whose `prompts` name a file, with the training prompts in its place: they decide what the run is, the file's name does not.

    Those of a subjects.yaml are for every combination, those of a prompt file for each its own.
    """
    path = Path(config.prompts)
    if path.name == FILE_NAME:
        return config.model_copy(update={"prompts": read_subjects(path).training_prompts})
    keys = [folder.name for folder in config.combinations]
    return config.model_copy(update={"prompts": {key: _of(path, key).training for key in keys}})


def templates_of(config: RunConfig, combination: str) -> Templates:
    """The templates that a combination's candidates are drawn with."""
    assert not isinstance(config.prompts, str), config.prompts
    return config.prompts[combination] if isinstance(config.prompts, dict) else config.prompts


def evaluation_prompts(config: BenchmarkConfig, combination: str) -> tuple[str, ...]:
    """The templates that a combination is evaluated with."""
    return _of(Path(config.prompts), combination).evaluation if isinstance(config.prompts, str) else config.prompts


def training_prompts(config: BenchmarkConfig, combination: str) -> tuple[str, ...]:
    """The templates that a combination's pools are drawn with."""
    return _of(Path(config.prompts), combination).training if isinstance(config.prompts, str) else config.training_prompts


def _of(path: Path, combination: str) -> CombinationPrompts:
    prompts = read_prompts(path).combinations
    if combination not in prompts:
        raise ValueError(f"{path}: has no prompts for {combination!r}, only for {', '.join(prompts)}; add some")
    return prompts[combination]
