"""Ways to unite the adapters of single subjects, each a frozen value with only the hyperparameters that it has."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from mudi.adapter_size import TEXT
from mudi.options import require_ranges
from mudi.passes import Once

Positions = Literal["concept", "real", "all"]
# Gradient fusion collects its Grams on one sample of so many steps of the first prompt, and on the text of both.
PROMPTS = ("photo of a {}", "{}")
STEPS = 20
# Of the mean diagonal of the summed Grams. RIDGE lies far below any direction that inputs use.
RIDGE, FUSION_RIDGE = 1e-6, 1e-2


@dataclass(frozen=True, kw_only=True)
class Merge:
    """What all ways share."""

    name: ClassVar[str]
    rank: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        require_ranges(self)

    def once(self, targets: Sequence[str]) -> tuple[Once, ...]:
        """The things that it needs of each subject beside a fit whose LoRA sits on these targets."""
        return ()


@dataclass(frozen=True, kw_only=True)
class Sum(Merge):
    """The updates added, weight 1 each: what diffusers' `set_adapters` draws with."""

    name: ClassVar[str] = "sum"


@dataclass(frozen=True, kw_only=True)
class Mean(Merge):
    """The sum divided by the number of subjects."""

    name: ClassVar[str] = "mean"


@dataclass(frozen=True, kw_only=True)
class Svd(Merge):
    """peft's best approximation of the sum at `rank`; None is the sum of the ranks, at which it equals the sum."""

    name: ClassVar[str] = "svd"
    rank: int | None = None


@dataclass(frozen=True, kw_only=True)
class TiesSvd(Merge):
    """peft's TIES: each update pruned to `density` of its entries, then summed and approximated at `rank`."""

    name: ClassVar[str] = "ties_svd"
    rank: int | None = None
    density: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.density, bool) or not isinstance(self.density, int | float) or not 0 < self.density < 1:
            raise ValueError(f"density = {self.density!r}: allowed are shares between 0 and 1")


@dataclass(frozen=True, kw_only=True)
class DareLinearSvd(TiesSvd):
    """peft's DARE: as TIES, but the entries to keep are drawn at random."""

    name: ClassVar[str] = "dare_linear_svd"


@dataclass(frozen=True, kw_only=True)
class Fusion(Merge):
    """Mix-of-Show's gradient fusion in closed form.

    `positions` says which tokens of a subject's prompts count for keys and values (`mudi.merging.concept_grams`).
    Departure: the `ridge` is 1e-2 of the mean diagonal and not next to nothing. The Grams of one subject's prompts do not
    cover those of both together, and where they are weak the exact optimum extrapolates without bound; the released code's 50 and
    500 steps of L-BFGS end before they get there. (Two dogs of the miniature, mean D&C at ridges 1e-6, 1e-4, 1e-2 and 1e-1:
    0.10, 0.12, 0.58 and 0.26.)
    With a `neutral_weight` mu, fusion minimises its objective plus mu times the mean squared change of what the layers answer to
    captions without a subject (`mudi.merging.neutral_captions`; released code: none), where each subject's own term is a mean as well.
    """

    name: ClassVar[str] = "fusion"
    positions: Positions = "real"
    ridge: float = FUSION_RIDGE
    neutral_weight: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.positions not in get_args(Positions):
            raise ValueError(f"positions = {self.positions!r}: allowed are {', '.join(map(repr, get_args(Positions)))}")

    def once(self, targets: Sequence[str]) -> tuple[Once, ...]:
        """Grams take a sample of each subject, unless the text feeds all of its LoRA, and a reading of its prompts."""
        sampled = any(not TEXT.fullmatch(target) for target in targets)
        return (Once(name=f"grams {self.positions}", forward=STEPS * sampled + len(PROMPTS), gram=True),)


@dataclass(frozen=True, kw_only=True)
class Constrained(Merge):
    """Custom Diffusion's, of keys and values of cross-attention: exact on each subject's words (`mudi.merging.constrained`)."""

    name: ClassVar[str] = "constrained"
    ridge: float = RIDGE


@dataclass(frozen=True, kw_only=True)
class Union(Merge):
    """Token rows side by side, of fits that have nothing else."""

    name: ClassVar[str] = "union"


MERGES: Mapping[str, type[Merge]] = {of.name: of for of in (Sum, Mean, Svd, TiesSvd, DareLinearSvd, Fusion, Constrained, Union)}
