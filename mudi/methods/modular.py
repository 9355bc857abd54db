"""Modular customisation: one method fits each subject alone, a merge unites the fits, Seg-Mix may refine it. Each part is a value."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from mudi import adapter_folder, adapter_size
from mudi.adapter_folder import Origin, work_folder
from mudi.adapter_size import Architecture
from mudi.backbone import Backbone
from mudi.merging.recipes import MERGES, Constrained, Merge, Sum, Union
from mudi.methods.custom_diffusion import TARGETS, CustomDiffusion
from mudi.methods.dreambooth import DreamBooth
from mudi.methods.ed_lora import EDLora
from mudi.methods.textual_inversion import TextualInversion
from mudi.modular.subject_fits import after
from mudi.options import LoraSettings, Refine, Sampling, errors_at
from mudi.passes import Once, Work, photos_of
from mudi.personalization import SET_BY_RUNS, Personalization, PhotoFit
from mudi.prior_folder import BATCH
from mudi.records import Adapter, Combination, Report

SINGLES: Mapping[str, type[PhotoFit]] = {
    "dreambooth": DreamBooth,
    "ed_lora": EDLora,
    "custom_diffusion": CustomDiffusion,
    "textual_inversion": TextualInversion,
}
# Hyperparameters of a single fit that stand beside the parts, since they are the whole method's.
OF_THE_WHOLE = ("descriptive_class", *SET_BY_RUNS)
# Recipes whose single fit is theirs by definition are not among these.
ANY_SINGLE = ("modular", "merged_loras")

Part = TypeVar("Part", PhotoFit, Merge, Refine)


@dataclass(frozen=True, kw_only=True)
class Modular(Personalization):
    """A recipe of parts. `name` is that under which it was chosen (`mudi.methods.presets`).

    `single` is the method of each subject's own fit, one of `SINGLES`. A subject is fitted once for all combinations, merges and
    recipes that fit it so. `merge` is a value of `mudi.merging.recipes`. Token rows stand side by side with any of them; Textual
    Inversion, which has nothing else, takes the union and no other, and no other method takes that. `refine` (`mudi.options.Refine`)
    trains the merged LoRA on pictures that the fits draw themselves; its token rows, which MuDI's paper has none of, stay as they
    are. The detector must find every subject then, so no style may be among them.
    """

    name: str = "modular"
    single: PhotoFit = field(default_factory=DreamBooth)
    merge: Merge = field(default_factory=Sum)
    refine: Refine | None = None
    sampling: Sampling = field(default_factory=lambda: Sampling(negative_prompt=None, gamma=0.0))

    def __post_init__(self) -> None:
        super().__post_init__()
        if type(self.single) not in SINGLES.values():
            raise ValueError(f"single = {self.single!r}: allowed are methods named {', '.join(map(repr, SINGLES))}")
        if type(self.merge) not in MERGES.values():
            raise ValueError(f"merge = {self.merge!r}: allowed are merges named {', '.join(map(repr, MERGES))}")
        self._check_merge()

    def _check_merge(self) -> None:
        single, merge = self.single.name, self.merge.name
        if self.lora_targets is None and not isinstance(self.merge, Union):
            raise ValueError(f"merge.name = {merge!r}: {single} fits token rows and no LoRA to merge; leave it out, or use 'union'")
        if self.lora_targets is not None and isinstance(self.merge, Union):
            raise ValueError(f"merge.name = 'union': {single} fits a LoRA too, which a union of token rows would lose; use 'sum'")
        if isinstance(self.merge, Constrained) and self.lora_targets != TARGETS:
            raise ValueError(
                f"merge.name = 'constrained': takes keys and values of cross-attention alone, and {single} has more; "
                "use single: {name: custom_diffusion}, or merge: {name: fusion}"
            )
        if self.refine is not None and isinstance(self.merge, Union):
            raise ValueError(
                f"refine = {{steps: {self.refine.steps}}}: a refinement trains a LoRA, and a union of token rows has none; "
                "write refine: null"
            )

    @property
    def lora_targets(self) -> tuple[str, ...] | None:
        """Where the LoRA of each fit sits, and so that of the merge."""
        return self.single.lora_targets

    @property
    def token_rows(self) -> bool:
        """Whether the fits train rows, which the adapter of all then holds."""
        return self.single.token_rows

    @property
    def refits(self) -> bool:
        """Whether there is a LoRA in the end."""
        return self.lora_targets is not None

    @property
    def needs_masks(self) -> bool:
        """Whether the fits cut photos out; a refinement cuts out what it drew itself."""
        return self.single.needs_masks

    @property
    def needs_objects(self) -> bool:
        """Whether something is cut out, photos or what a refinement drew itself."""
        return self.needs_masks or self.refine is not None

    @property
    def prior_images(self) -> int:
        """Those of each subject's own fit."""
        return self.single.prior_images

    def hyperparameters(self) -> dict[str, object]:
        """With the name of each part, and without what a part has from the whole."""
        single = {key: value for key, value in self.single.hyperparameters().items() if key not in OF_THE_WHOLE}
        parts = {"single": {"name": self.single.name, **single}, "merge": {"name": self.merge.name, **asdict(self.merge)}}
        return {**super().hyperparameters(), **parts}

    def subject_method(self, combination: Combination) -> PhotoFit:
        """The `single` method with the values of the whole."""
        whole = replace(
            self.single, descriptive_class=self.descriptive_class, detector=self.detector, segmenter=self.segmenter, priors=self.priors,
            single_seed=self.single_seed,
        )  # fmt: skip
        return whole.among(combination)

    def steps_in_all(self, subjects: int) -> int:
        """Those of every subject's own fit, and of the refinement."""
        return self.single.steps * subjects + (self.refine.steps if self.refine else 0)

    def described(self) -> str:
        """The name, the single fit's where the name does not say it, and its rank."""
        _, numbers = self.single.described().split(" ", 1)
        told = self.name not in ANY_SINGLE or type(self.single) is DreamBooth
        return f"{self.name} {numbers}" if told else f"{self.name} {self.single.name} {numbers}"

    def shortened(self, steps: int) -> dict[str, object]:
        """Those of each part."""
        refine = {"refine.steps": steps} if self.refine else {}
        return {f"single.{key}": value for key, value in self.single.shortened(steps).items()} | refine

    def work(self, combination: Combination) -> Work:
        """Steps are those of the refinement; Grams and pictures are made once beside each subject's fit."""
        once = self.merge.once(self.lora_targets or ())
        if (refine := self.refine) is None:
            return Work(kind=f"merge {self.merge.name}", steps=0, once=once)
        (rank,) = self.stored_ranks(len(combination.subjects))
        kind = f"refine {self.single.name} rank={rank} rows={refine.batch} accumulation={refine.accumulation}"
        return Work(
            kind=kind, steps=refine.steps, accumulation=refine.accumulation, rows=refine.batch, references=1,
            photos=photos_of(combination), once=(*once, *_pictures(refine)),
        )  # fmt: skip

    def stored_ranks(self, subjects: int) -> tuple[int, ...]:
        """One LoRA, of all ranks unless a lower one is asked for; none of a union."""
        return tuple(self.merge.rank or subjects * rank for rank in self.single.stored_ranks(1))

    def adapter_numbers(self, architecture: Architecture, combination: Combination, alone: int | None) -> tuple[int, int]:
        """As of any method; a refinement trains the merged LoRA, larger than each subject's own."""
        trained, size = super().adapter_numbers(architecture, combination, alone)
        if self.refine is None:
            return trained, size
        (rank,) = self.stored_ranks(len(combination.subjects))
        merged = adapter_size.lora_shapes(architecture.unet, LoraSettings(rank=rank, alpha=rank, targets=self.lora_targets))
        return max(trained, adapter_size.parameters(merged)), size

    def train(self, backbone: Backbone, combination: Combination, out_dir: Path, seed: int, report: Report | None = None) -> Adapter:
        """Fit each subject alone, unless it is there, and store the merge of all, refined if that is asked for, in `out_dir`."""
        named = self.view(combination)
        if self.refine:
            from mudi.dataset import require_objects

            require_objects(named, f"{self.name} with refine")
        singles = self.fit_singles(backbone, combination, out_dir, report)
        if not self.refine:
            return self._merged(backbone, singles, named, seed, out_dir)
        return self._refined(backbone, singles, named, seed, out_dir, after(report, self.single.steps * len(singles)))

    def _merged(self, backbone: Backbone, singles: list[Adapter], named: Combination, seed: int, place: Path) -> Adapter:
        from mudi.merging.adapters import MergeFacts, merged_adapter, united_adapter
        from mudi.merging.constrained import constrained_adapter

        facts = MergeFacts(method=self.name, seed=seed, details={"hyperparameters": self.hyperparameters()})
        makers = {Union: united_adapter, Constrained: constrained_adapter}
        return makers.get(type(self.merge), merged_adapter)(backbone, singles, named, place, self.merge, facts)

    def _refined(
        self, backbone: Backbone, singles: list[Adapter], named: Combination, seed: int, out_dir: Path, report: Report | None
    ) -> Adapter:
        """The merge, trained on compositions of pictures that the fits draw, and stored in `out_dir`.

        Source: MuDI (arXiv 2404.04243), modular customisation. Only the merge's LoRA moves; its token rows are on meanwhile, and
        are stored with it. The merge lies in the work folder of `out_dir` until then, and one that is there is taken.
        """
        from mudi.examples import personal_examples, seg_mixing
        from mudi.modular.self_generated import self_generated
        from mudi.retrain import refit

        refine, place = self.refine, work_folder(out_dir) / "merged"
        pictures = self_generated(backbone, singles, named, refine, self.single_seed, self.detector, self.segmenter)
        start = adapter_folder.find(place) or self._merged(backbone, singles, named, seed, place)
        manifest = adapter_folder.read_manifest(place)
        details = {
            "hyperparameters": manifest["hyperparameters"], "merge": manifest["merge"],
            "refine": {**asdict(refine), "merged_sha256": start.sha256, "pictures": len(pictures)},
        }  # fmt: skip
        mix = seg_mixing(backbone.resolution, scales=self.sampling.scales, overlap=self.sampling.overlap)
        examples = personal_examples(pictures, [], batch=refine.batch, mix=mix, mix_probability=1.0)
        origin = Origin(method=start.method, combination=named.key, details=details)
        return refit(backbone, named, start, examples, refine.retraining, origin, out_dir, seed=seed, report=report)


def composed(preset: Modular, /, **values: object) -> Modular:
    """The preset with other values; a mapping in the place of a part is laid over the preset's part.

    A `name` in it chooses another method or merge, with its own defaults. Left out, the merge of fits that are token rows alone
    is the union. Raises ValueError of one line that begins with the key.
    """
    single = _laid_over("single", preset.single, values.get("single", preset.single), SINGLES)
    if preset.name not in ANY_SINGLE and type(single) is not type(preset.single):
        own = preset.single.name
        raise ValueError(f"single.name = {single.name!r}: {preset.name} fits by {own!r}; leave it out, or use the method 'modular'")
    own = preset.merge if single.lora_targets else Union()
    merge = _laid_over("merge", own, values.get("merge", own), MERGES)
    refine = values.get("refine", preset.refine)
    if isinstance(refine, Mapping):
        with errors_at("refine."):
            refine = replace(preset.refine or Refine(), **refine)
    return replace(preset, **{**values, "single": single, "merge": merge, "refine": refine})


def _laid_over(place: str, own: Part, given: object, choices: Mapping[str, type[Part]]) -> Part:
    """The part that `given`, a mapping, makes of the preset's; a value that is a part is taken as it is."""
    if type(given) in choices.values():
        return given
    if not isinstance(given, Mapping):
        raise ValueError(f"{place} = {given!r}: a part is a mapping; write {place}: {{name: NAME}} with one of {', '.join(choices)}")
    name, values = given.get("name", own.name), {key: value for key, value in given.items() if key != "name"}
    if name not in tuple(choices):
        raise ValueError(f"{place}.name = {name!r}: allowed are {', '.join(map(repr, choices))}")
    with errors_at(f"{place}."):
        return replace(own, **values) if name == own.name else choices[name](**values)


def _pictures(refine: Refine) -> list[Once]:
    """Batches of pictures that a subject's own fit draws, counted as if every picture served."""
    how = f"pictures {refine.sample_steps} {refine.guidance_scale} {refine.negative_prompt!r}"
    rows = BATCH * refine.sample_steps * (1 if refine.guidance_scale == 1 else 2)
    return [Once(name=f"{how} {batch}", forward=rows, pictures=BATCH) for batch in range(-(-refine.images // BATCH))]
