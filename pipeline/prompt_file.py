"""Prompt templates of a benchmark: given in its file for all combinations, or in a file with some for each."""

from functools import cache
from pathlib import Path
from typing import Annotated

from pydantic import Field

from pipeline.benchmark_config import BenchmarkConfig
from pipeline.config import Settings, Text
from pipeline.run_file import load_settings

Templates = Annotated[tuple[Text, ...], Field(min_length=1)]


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


def evaluation_prompts(config: BenchmarkConfig, combination: str) -> tuple[str, ...]:
    """The templates that a combination is evaluated with."""
    return _of(config, combination).evaluation if isinstance(config.prompts, str) else config.prompts


def training_prompts(config: BenchmarkConfig, combination: str) -> tuple[str, ...]:
    """The templates that a combination's pools are drawn with."""
    return _of(config, combination).training if isinstance(config.prompts, str) else config.training_prompts


def _of(config: BenchmarkConfig, combination: str) -> CombinationPrompts:
    prompts = read_prompts(Path(config.prompts)).combinations
    if combination not in prompts:
        raise ValueError(f"{config.prompts}: has no prompts for {combination!r}, only for {', '.join(prompts)}; add some")
    return prompts[combination]
