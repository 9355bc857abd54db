"""Every noun of the project: frozen values that the stages pass to one another.

Shape legend, used in names and docstrings everywhere: B images or candidates, N subjects, M detected
boxes, R references, D embedding width, T tokens, C latent channels, (H, W) pixels, (h, w) latents.
Boxes are (x0, y0, x1, y1) in pixels, exclusive at the right and bottom. Images are uint8 RGB.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

Box = tuple[float, float, float, float]
# Layouts and compositions are given on a canvas of so many pixels a side, whatever is drawn.
CANVAS = 1024
# A fit says how far it is: the optimiser step and its loss.
Report = Callable[[int, float], None]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """One photo of a subject; the mask, None if there is none, is white on the subject and has the photo's size."""

    image_path: Path
    mask_path: Path | None
    caption: str


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A user's own subject. `identifier` is the rare word bound to it ("olis"), `class_noun` the words
    that describe its kind ("corgi"), `detection_query` what the detector is asked for ("dog"); "" for what no box can
    hold, such as a style ("watercolor painting")."""

    key: str
    identifier: str
    class_noun: str
    detection_query: str
    references: tuple[Reference, ...]

    @property
    def phrase(self) -> str:
        """How prompts name the subject: "olis corgi", or "corgi" where a method has it go without an identifier."""
        return f"{self.identifier} {self.class_noun}".strip()


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A filled-in prompt. A watched one is drawn with the same seeds in every round, to be looked at and
    compared in pairs; it is never selected for training."""

    prompt_id: str
    text: str
    watched: bool = False


@dataclass(frozen=True, kw_only=True)
class Combination:
    """Two or more subjects that belong in one picture, and the prompts to draw them with.

    `layouts` say where the subjects stand, each by subject key, on a canvas of 1024 by 1024 whatever the
    model's resolution; empty where nobody gave any.
    """

    key: str
    subjects: tuple[Subject, ...]
    prompts: tuple[Prompt, ...] = ()
    layouts: tuple[Mapping[str, Box], ...] = ()

    @property
    def objects(self) -> tuple[Subject, ...]:
        """The subjects that a box can hold: those that are detected, cut out and laid out. Styles are not among them."""
        return tuple(subject for subject in self.subjects if subject.detection_query)


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """A fitted LoRA in a folder with a manifest; `sha256` is that of its weights file."""

    method: str
    combination: str
    round: int
    path: Path
    sha256: str


@dataclass(frozen=True, kw_only=True)
class CandidateKey:
    """All that a candidate depends on; equal keys mean equal bytes on one software and device type."""

    run: str
    method: str
    combination: str
    prompt_id: str
    index: int
    round: int
    adapter_sha256: str

    @property
    def candidate_id(self) -> str:
        """The first 32 hexadecimal digits of the sha256 of the key's canonical JSON."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A drawn picture, or the reason why there is none. image: (H, W, 3), None unless status is "ok"."""

    key: CandidateKey
    prompt: str
    seed: int
    image: "np.ndarray | None"
    status: str
    error: str | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One box that answers a text query, with the detector's confidence in 0..1."""

    box_xyxy: Box
    confidence: float
    query: str


@dataclass(frozen=True, kw_only=True)
class Score:
    """A named value for one image. None means not computed; a defined zero gives its reason in `details`."""

    metric: str
    value: float | None
    scorer: str
    details: dict = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ScoredCandidate:
    """A candidate with what the detector and the metrics said of it."""

    candidate: Candidate
    detections: tuple[Detection, ...]
    scores: tuple[Score, ...]
