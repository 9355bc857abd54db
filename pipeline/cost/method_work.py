"""The work of a fit and the lengths of a method, asked of methods by attribute until they answer themselves."""

from dataclasses import dataclass, replace

from mudi.adapter_size import TEXT
from mudi.options import RetrainSettings
from mudi.personalization import Personalization
from mudi.prior_folder import BATCH
from mudi.records import Combination

DRIFT_TIMES = range(50, 1000, 100)


@dataclass(frozen=True, kw_only=True)
class Once:
    name: str
    forward: int
    pictures: int = 0
    gram: bool = False


@dataclass(frozen=True, kw_only=True)
class Work:
    kind: str
    steps: int
    accumulation: int = 1
    rows: int = 0
    references: int = 0
    photos: int = 0
    once: tuple[Once, ...] = ()

    @property
    def backward(self) -> int:
        return self.steps * self.accumulation * self.rows

    @property
    def forward(self) -> int:
        return self.backward * (1 + self.references) + 2 * len(DRIFT_TIMES) * self.photos


def photos_of(combination: Combination) -> int:
    return sum(len(subject.references) for subject in combination.subjects)


def described(method: Personalization) -> str:
    return f"{method.name} {getattr(method, 'single', '')} rank={getattr(method, 'rank', 0)}"


def refit_work(settings: RetrainSettings, adapter: str, combination: Combination) -> Work:
    kind = f"refit {adapter} photos={settings.reference_share:g} rows={settings.batch} accumulation={settings.accumulation}"
    return Work(
        kind=kind, steps=settings.steps, accumulation=settings.accumulation, rows=settings.batch, references=1,
        photos=photos_of(combination),
    )  # fmt: skip


def subject_method(method: Personalization, combination: Combination) -> Personalization | None:
    if method.single_recipe(combination) is None:
        return None
    return method.alone(combination) if hasattr(method, "alone") else method


def fit_work(method: Personalization) -> Work:
    rows = method.batch * (2 if method.objective == "prior_preservation" and method.prior_images else 1)
    references = int(method.objective == "dco")
    told = f"mix={getattr(method, 'mix_probability', 0):g} rows={rows} accumulation={method.accumulation} references={references}"
    return Work(
        kind=f"fit {described(method)} {told}", steps=method.steps, accumulation=method.accumulation, rows=rows, references=references
    )


def work(method: Personalization, combination: Combination, alone: bool = False) -> Work:
    if alone or subject_method(method, combination) is None:
        return fit_work(method)
    once = []
    if getattr(method, "merge", None) == "fusion":
        sampled = any(not TEXT.fullmatch(target) for target in method.lora_targets or ())
        once = [Once(name=f"grams {method.kv_positions}", forward=20 * sampled + 2, gram=True)]
    if not getattr(method, "refine_steps", 0):
        return Work(kind=f"merge {getattr(method, 'merge', 'gather')}", steps=0, once=tuple(once))
    how = f"pictures {method.self_steps} {method.self_guidance_scale} {method.self_negative_prompt!r}"
    rows = BATCH * method.self_steps * (1 if method.self_guidance_scale == 1 else 2)
    once += [Once(name=f"{how} {batch}", forward=rows, pictures=BATCH) for batch in range(-(-method.self_images // BATCH))]
    return Work(
        kind=f"refine {method.single}", steps=method.refine_steps, accumulation=method.accumulation, rows=method.batch, references=1,
        photos=photos_of(combination), once=tuple(once),
    )  # fmt: skip


def lengths(method: Personalization) -> dict[str, int]:
    names = ("steps", "refine_steps", "self_images", "prior_images")
    return {name: getattr(method, name) for name in names if getattr(method, name, 0)}


def adapter_numbers(method: Personalization, architecture, combination: Combination, alone: str) -> tuple[int, int]:
    if not alone:
        return method.adapter_numbers(architecture, combination, 0 if subject_method(method, combination) else None)
    subject = replace(combination, subjects=tuple(s for s in combination.subjects if s.key == alone))
    return subject_method(method, combination).adapter_numbers(architecture, subject, None)
