"""The run file: what a run is asked to do, as strict and documented models. Nothing is converted: "3" is no number."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Discriminator, Field, Tag, field_serializer, field_validator, model_serializer, model_validator

from mudi.options import RetrainSettings
from pipeline.settings.later import without_later
from pipeline.settings.run_file import read_source, validated
from pipeline.settings.sampling_keys import BatchedSampling, own_sampling
from pipeline.settings.strict import Amount, Count, Settings, Share, Templates, Text

NOT_DECIDING = ("name", "runs", "cluster", "metrics")
# A run's identity names the kind of worker once for each stage, as files with a pool a stage did.
STAGES = ("generate", "detect", "compare", "fit")


def _form(value: object) -> str:
    """Which form of `prompts` a value is meant to be, so that its mistakes are told as mistakes of this form alone."""
    return "<mapping>" if isinstance(value, dict) else "<list>" if isinstance(value, list | tuple) else "<file>"


Prompts = Annotated[
    Annotated[Templates, Tag("<list>")] | Annotated[dict[str, Templates], Tag("<mapping>")] | Annotated[Text, Tag("<file>")],
    Discriminator(_form),
]


class Embedders(Settings):
    dreamsim: Text | None = None
    """Weights of the DreamSim embedder: "miniature" or a folder. null leaves its scores out."""
    dinov2: Text | None = None
    """Weights of the DINOv2 embedder: "miniature", a folder, or hub id@revision. null leaves its scores out."""

    @property
    def chosen(self) -> dict[str, str]:
        """Kind -> weights, of the embedders that are used."""
        return {kind: name for kind, name in self.model_dump().items() if name is not None}


class Models(Settings):
    """The models of a run, and one more key for each model that a metric asks for, such as `clip`."""

    model_config = ConfigDict(extra="allow")

    backbone: Text = "miniature"
    """The diffusion model that is adapted: "miniature" (SDXL's plan), "miniature-sd" (Stable Diffusion 1.5's), a folder, hub
    id@revision, or "random-sdxl" (-sd15, -sd21)."""
    detector: Text = "miniature"
    """OWLv2 weights, which find the subjects in a candidate."""
    segmenter: Text = "miniature"
    """Segment-anything weights, which cut the subject out of a class prior."""
    embedders: Embedders = Embedders(dreamsim="miniature", dinov2="miniature")
    """Whose opinions compare a detected subject with its photos; at least one."""

    @field_validator("embedders")
    @classmethod
    def _at_least_one(cls, embedders: Embedders) -> Embedders:
        if not embedders.chosen:
            raise ValueError("no embedder is named; give dreamsim, dinov2 or both")
        return embedders

    @model_validator(mode="after")
    def _names(self) -> "Models":
        for key, name in self.model_extra.items():
            if not isinstance(name, str) or not name:
                raise ValueError(f"models.{key} is {json.dumps(name)[:40]}; give a folder, a hub id@revision or miniature")
        return self


class Method(Settings):
    """The method and its hyperparameters, which the method's own dataclass checks."""

    model_config = ConfigDict(extra="allow")

    name: Text = "mudi"
    """Which method fits the first adapter."""

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """Every key beside `name`."""
        return dict(self.model_extra)


class Scoring(Settings):
    threshold: Share = 0.4
    """Least confidence of a detected box."""
    select_by: Annotated[
        Annotated[Text, Tag("<file>")] | Annotated[dict[Text, Annotated[float, Field(gt=0)]], Tag("<mapping>")], Discriminator(_form)
    ] = "dnc_linear_dreamsim"
    """The score that ranks and rewards candidates, of detect_and_compare (such as dnc_linear_dreamsim) or of one of `metrics`. Of
    several, score -> weight, it is the weighted mean."""
    per_prompt: bool = False
    """Whether prompts take turns at what is kept, each giving its best; else the best of all are kept."""

    @property
    def weights(self) -> dict[str, float]:
        """Score -> weight, of what ranks candidates."""
        return {self.select_by: 1.0} if isinstance(self.select_by, str) else dict(self.select_by)

    @property
    def zero_fails(self) -> bool:
        """Whether 0 is the score of a picture that failed, as those of Detect-and-Compare are."""
        return all(name.startswith("dnc_") for name in self.weights)

    @model_serializer(mode="wrap")
    def _stored(self, values: Any) -> dict[str, Any]:
        return without_later(values(self))


class Slot(Settings):
    gpus: Amount = 0.0
    """GPUs of one worker; a fraction shares one, above one only whole numbers can be placed."""
    cpus: Annotated[float, Field(gt=0)] = 1.0
    """CPU cores of one worker; whole ones are its threads."""
    count: Count | None = None
    """The most workers; null takes what the cluster has, also when nodes join later."""

    @property
    def threads(self) -> int:
        """Threads that a worker computes with. Sums are split by their number, so it decides the last bits of a picture."""
        return max(1, int(self.cpus))


class Cluster(Settings):
    address: Annotated[str, Field(pattern=r"^(none|auto|local|ray://\S+:\d+)$")] | None = None
    """null or "local" starts Ray on this machine, "auto" joins the cluster this machine is part of, "ray://host:10001" a remote one,
    "none" works in this process without Ray."""
    cpus: Count | None = None
    """CPU cores that a local Ray may use; null is all."""
    workers: Slot = Slot()
    """The workers: each loads every model once, at first use, and fits, draws and scores for the whole run."""
    max_failed_share: Share = 0.05
    """Share of a round's candidates that may fail before the run stops."""

    @model_validator(mode="before")
    @classmethod
    def _one_kind_of_worker(cls, values: Any) -> Any:
        if isinstance(values, dict) and (old := [key for key in (*STAGES, "judge") if key in values]):
            raise ValueError(
                f"{old[0]}: one kind of worker does all the work; write workers: {{gpus: 0, cpus: 1, count: 2}} instead of {', '.join(old)}"
            )
        return values


class RunFile(Settings):
    """What the files of a self-training run and of a benchmark both say."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """The run's folder: letters, digits, dot, dash and underscore, beginning with a letter or digit."""
    runs: Text = "runs"
    """Folder of all runs."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """The number all randomness of the run is derived from."""
    models: Models = Models()
    """Which weights are used; a metric's own models are further keys."""
    combinations: Annotated[tuple[Path, ...], Field(min_length=1)]
    """Folders of subjects that belong in one picture, from the working directory; the folder's name is the combination's key."""
    queries: dict[str, dict[str, Text]] = Field(default_factory=dict)
    """Combination -> subject key -> what the detector is asked for, where the default is wrong."""
    sampling: BatchedSampling = BatchedSampling()
    """How an image is drawn; what is left out is as the method has it (for mudi, the keys' defaults)."""
    score: Scoring = Scoring()
    """How an image is judged."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Number format of the frozen models. float16 is left out: without loss scaling its gradients vanish."""
    cluster: Cluster = Cluster()
    """Where the work runs. Of it only the kind of device and the threads of a worker change results, in the last bits."""

    @field_validator("combinations")
    @classmethod
    def _absolute_and_distinct(cls, folders: tuple[Path, ...]) -> tuple[Path, ...]:
        folders = tuple(Path(os.path.abspath(folder)) for folder in folders)
        keys = [folder.name for folder in folders]
        if twice := sorted({key for key in keys if keys.count(key) > 1}):
            raise ValueError(f"two folders are named {twice[0]!r}; the name identifies the combination, so rename one")
        return folders

    @field_serializer("sampling")
    def _stored(self, sampling: BatchedSampling) -> dict[str, Any]:
        return without_later(asdict(sampling))


class RunConfig(RunFile):
    method: Method = Method()
    """How the first adapter is fitted."""
    rounds: Annotated[int, Field(ge=0)] = 0
    """Self-training rounds after the first fit. The table has rows 0 to `rounds`."""
    candidates: Count
    """Images drawn per round and combination, spread over `prompts`."""
    keep: Count
    """Most candidates kept for training, per round and combination."""
    prompts: Prompts
    """Templates: "{subjects}" names all subjects, "{a}" the one with key a. A list for every combination, combination -> its own, or
    a file whose training prompts are taken when the run file is read: a prepared folder's subjects.yaml or one like
    jobs/configs/prompts/mudi_40.yaml."""
    metrics: tuple[Text, ...] = ()
    """Metrics that score every picture beside detect_and_compare; more can be added to a finished run, which then draws nothing again."""
    watched_prompts: tuple[Text, ...] = ()
    """Templates drawn with the same seeds every round, to be looked at; never trained on."""
    watched_images: Count = 2
    """Images per watched prompt, combination and round."""
    watched_rounds: Literal["all", "ends"] = "all"
    """When watched prompts are drawn: in every round, or in the first and the last alone."""
    pool_sampling: dict[str, Any] = Field(default_factory=dict)
    """Keys of `sampling` that differ for candidates; watched pictures are drawn as `sampling` says."""
    retrain: RetrainSettings = RetrainSettings()
    """How a self-training round is fitted."""

    @field_serializer("retrain")
    def _stored_retrain(self, retrain: RetrainSettings) -> dict[str, Any]:
        return without_later(asdict(retrain))

    @field_validator("prompts")
    @classmethod
    def _for_every_combination(cls, prompts: Prompts, info: Any) -> Prompts:
        if isinstance(prompts, dict) and "combinations" in info.data:
            keys = [folder.name for folder in info.data["combinations"]]
            if differing := sorted(set(prompts) ^ set(keys)):
                said = "has no prompts" if differing[0] in keys else "is no combination of this run"
                raise ValueError(f"{differing[0]!r} {said}; give prompts for each of {', '.join(keys)}")
        return prompts

    @field_validator("keep")
    @classmethod
    def _keep_some(cls, keep: int, info: Any) -> int:
        if keep > (candidates := info.data.get("candidates", keep)):
            raise ValueError(f"{keep} is more than candidates ({candidates}); lower keep or raise candidates")
        return keep


def load_run(path: Path, overrides: Sequence[str] = ()) -> RunConfig:
    """The run file at `path` with overrides applied, the templates of a prompt file in place of its path, and the method's own
    `sampling` where the file says nothing; see `load_settings`."""
    source = read_source(path, overrides)
    config = validated(RunConfig, source)
    if isinstance(config.prompts, str):
        # Made of the models of this file.
        from pipeline.settings.prompt_file import with_templates

        config = with_templates(config)
    own = own_sampling(config.method.name, source.values.get("sampling", {}))
    return config.model_copy(update={"sampling": replace(config.sampling, **own)})


def deciding(dump: dict[str, Any]) -> dict[str, Any]:
    """What of a dumped config decides results: all but placement, the run's name and its folder, further metrics and their models.
    Of placement the kind of device and the whole cores of a worker count: sums are split by them.

    The name is left out so that runs of the same content can be recognised, and combinations count by
    their key, so that moving the photos is no change. `dump` is `config.model_dump(mode="json")`, or
    the same read back from a file.
    """
    kept = without_later({key: value for key, value in dump.items() if key not in NOT_DECIDING})
    combinations, models = [Path(folder).name for folder in kept["combinations"]], {key: kept["models"][key] for key in Models.model_fields}
    return {**kept, "models": models, "combinations": combinations, "workers": workers_of(dump["cluster"])}


def workers_of(cluster: dict[str, Any]) -> dict[str, Any]:
    """The part of a dumped `cluster` that decides results: the kind of device and the threads of each stage's workers. A dump with a
    pool a stage, as older runs stored it, is read too."""
    slots = {stage: cluster.get("workers") or cluster[stage] for stage in STAGES}
    return {stage: {"cuda": slot["gpus"] > 0, "threads": max(1, int(slot["cpus"]))} for stage, slot in slots.items()}


def config_hash(config: RunConfig) -> str:
    """The sha256, in hexadecimal, of the canonical JSON of all that changes results (see `deciding`)."""
    canonical = json.dumps(deciding(config.model_dump(mode="json")), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()
