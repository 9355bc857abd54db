"""The benchmark file: which methods are compared on what, as strict and documented models."""

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_serializer, model_validator, with_config

from mudi.options import RetrainSettings
from pipeline.settings.config import NOT_DECIDING, Models, RunConfig, RunFile, load_run, workers_of
from pipeline.settings.later import LATER_IN_REFITS, without_later
from pipeline.settings.run_file import read_source, validated
from pipeline.settings.sampling_keys import BatchedSampling, own_sampling
from pipeline.settings.strict import Amount, Count, Settings, Text

Label = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}$")]
# The metric that scores pictures as they are drawn; all others score them afterwards.
DRAWN_WITH = "detect_and_compare"
# What can change between two starts of a benchmark without a drawn image being another one.
NOT_DRAWN = ("metrics", "tables", "claims", "methods", "prompts", "training_prompts")
# `sampling` of a file that has none: no mean shift and no negative prompt, whatever the methods have.
PLAIN = {"negative_prompt": None, "gamma": 0.0}


# Else it would take any key, as the arm around it does.
@with_config(Settings.model_config)
@dataclass(frozen=True, kw_only=True)
class Refit(RetrainSettings):
    """Self-training rounds on top of an arm."""

    of: Label
    """The arm whose adapters are refitted; its `sampling` draws the pools, but for what `sampling` here says."""
    rounds: Count = 1
    """Rounds, each on a fresh pool drawn with the adapter of the round before."""
    sampling: dict[str, Any] = field(default_factory=dict)
    """Keys of `sampling` that differ for pools."""
    pool: Count = 200
    """Candidates drawn for each round, combination and fit, from `training_prompts`."""
    keep: Count = 50
    """How many of them train the refit of the round."""
    select: Literal["top", "random"] = "top"
    """The highest by `score.select_by`, or as many at random, zeros included: what selection is measured against."""

    @property
    def retraining(self) -> RetrainSettings:
        """How a round is fitted."""
        return RetrainSettings(**{of.name: getattr(self, of.name) for of in fields(RetrainSettings)})


class Arm(Settings):
    """One row of the tables: a method with its hyperparameters, which the method's own dataclass checks."""

    model_config = ConfigDict(extra="allow")

    method: Text | None = None
    """The method; null takes that of `like`."""
    like: Label | None = None
    """The arm that this one is, but for the keys given here."""
    sampling: dict[str, Any] = Field(default_factory=dict)
    """Keys of `sampling` that differ for this arm."""
    refit: Refit | None = None
    """Self-training rounds on top of another arm's adapters. Needs `like` to be absent: all is as in `refit.of`."""

    @field_serializer("refit")
    def _stored_refit(self, refit: Refit | None) -> dict[str, Any] | None:
        return None if refit is None else without_later(asdict(refit), LATER_IN_REFITS)

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Every key beside those above."""
        return dict(self.model_extra)

    @model_validator(mode="after")
    def _one_origin(self) -> "Arm":
        origins = [name for name in ("method", "like", "refit") if getattr(self, name) is not None]
        if len(origins) != 1:
            raise ValueError(f"an arm has one of method, like and refit, not {' and '.join(origins) or 'none'}")
        if self.refit and self.hyperparameters:
            raise ValueError(f"a refit has no hyperparameter {next(iter(self.hyperparameters))!r}; its settings stand under `refit`")
        return self


class TableSpec(Settings):
    name: Label
    """Names the table in files."""
    title: Text
    """Its heading."""
    methods: Annotated[tuple[Label, ...], Field(min_length=1)]
    """Its rows."""
    metrics: Annotated[tuple[Label, ...], Field(min_length=1)]
    """Its columns: names of scores."""
    paper: bool = True
    """Whether the MuDI paper's numbers stand beside methods of the same name; false where such a name means something else."""


class ClaimSpec(Settings):
    text: Text
    """The claim in words."""
    better: Label
    """The arm that is said to be better."""
    worse: Label
    """The arm that it is compared with."""
    metric: Label
    """The score in which it is."""
    margin: Amount = 0.0
    """0: better by any amount. Above 0: not worse by more than this."""


class BenchmarkConfig(RunFile):
    sampling: BatchedSampling = BatchedSampling(**PLAIN)
    """How an image is drawn, unless the arm says otherwise; what neither says is as the arm's method has it."""
    prompts: tuple[Text, ...] | Text
    """Evaluation templates for every combination, or a file with its own for each (jobs/configs/prompts)."""
    training_prompts: tuple[Text, ...] = ()
    """Templates that pools are drawn with; with a file in `prompts`, that file's."""
    images: Count = 10
    """Pictures of one prompt, with seeds common to all arms and fits."""
    fits: Count = 1
    """Fits of each arm and combination with different seeds."""
    defaults: dict[str, Any] = Field(default_factory=dict)
    """Hyperparameters of every arm whose method has them, unless the arm says otherwise."""
    methods: Annotated[dict[Label, Arm], Field(min_length=1)]
    """The arms by label. More can be added to a run; one that has been drawn cannot change."""
    metrics: Annotated[tuple[Text, ...], Field(min_length=1)] = ("detect_and_compare",)
    """Which metrics score the pictures. More can be added to a finished run, which then draws nothing again."""
    tables: tuple[TableSpec, ...] = ()
    """What the report shows."""
    claims: tuple[ClaimSpec, ...] = ()
    """Differences that the report gives a verdict on; written down before the run."""

    @model_validator(mode="after")
    def _labels(self) -> "BenchmarkConfig":
        """Every label that is used is an arm, and no arm is derived from itself."""
        for label, arm in self.methods.items():
            seen, current = [label], arm
            while (origin := current.like or (current.refit and current.refit.of)) is not None:
                self._require_arm(f"methods.{label}", origin)
                if origin in seen:
                    raise ValueError(f"methods.{label}: is derived from itself ({' -> '.join([*seen, origin])})")
                seen.append(origin)
                current = self.methods[origin]
        for label, arm in self.methods.items():
            if arm.refit and not self.training_prompts and not isinstance(self.prompts, str):
                raise ValueError(f"methods.{label}: a refit draws a pool, and training_prompts is empty; add templates")
        for table in self.tables:
            for method in table.methods:
                self._require_arm(f"tables: {table.name}", method)
        for claim in self.claims:
            self._require_arm(f"claims: {claim.text!r}", claim.better)
            self._require_arm(f"claims: {claim.text!r}", claim.worse)
        return self

    def _require_arm(self, place: str, label: str) -> None:
        if label not in self.methods:
            close = difflib.get_close_matches(label, self.methods, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(self.methods)}"
            raise ValueError(f"{place}: {label!r} is not a label of `methods`; {hint}")


def load_benchmark(path: Path, overrides: Sequence[str] = ()) -> BenchmarkConfig:
    """The benchmark file at `path` with overrides applied; ValueError of one line, as `config.load_run`.

    Keys of `sampling` that neither the file nor an arm says are filled in, in the arm, where its method has them otherwise than the
    file. Arms that are `like` another, or a refit of one, take what that has.
    """
    source = read_source(path, overrides)
    config, said = validated(BenchmarkConfig, source), source.values.get("sampling", PLAIN)

    def completed(arm: Arm) -> Arm:
        own = own_sampling(arm.method, {*said, *arm.sampling}) if arm.method else {}
        differing = {key: value for key, value in own.items() if value != getattr(config.sampling, key)}
        return arm.model_copy(update={"sampling": {**differing, **arm.sampling}})

    return config.model_copy(update={"methods": {label: completed(arm) for label, arm in config.methods.items()}})


def load_plan(path: Path, overrides: Sequence[str] = ()) -> RunConfig | BenchmarkConfig:
    """The file at `path` as what it is: one with `methods` is a benchmark, any other a self-training run. Errors as `load_run`."""
    return (load_benchmark if "methods" in read_source(path).values else load_run)(path, overrides)


def drawing(dump: Mapping[str, Any]) -> dict[str, Any]:
    """What of a dumped config decides every drawn image; the arms and prompts are compared one by one."""
    kept = {key: value for key, value in dump.items() if key not in (*NOT_DECIDING, *NOT_DRAWN)}
    models = {key: dump["models"][key] for key in Models.model_fields}
    return {**kept, "models": models, "combinations": [Path(f).name for f in kept["combinations"]], "workers": workers_of(dump["cluster"])}


def benchmark_hash(config: BenchmarkConfig) -> str:
    """The sha256, in hexadecimal, of the canonical JSON of `drawing`."""
    canonical = json.dumps(drawing(config.model_dump(mode="json")), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
