"""What a caption claims of a scene, and captions that are wrong in one known way."""

from dataclasses import dataclass, replace
from itertools import permutations

import numpy as np

from mudi.miniature.captions import PLACES, PLAIN_WORDS
from mudi.miniature.captions import place as place_words
from mudi.miniature.world import ACCESSORIES, BACKGROUNDS, CLASSES, COLOURS, Identity, Scene

SHARES, SHARE_PLACE = {"body": 0.92, "belly": 0.3, "worn": 0.4}, 0.92
# The ways to be wrong: one attribute replaced; one exchanged between the two subjects; one of the two named twice; the second
# subject of a pair, where the scene has one; another place.
KINDS = ("changed", "exchanged", "twice", "missing", "place")
PAIR_KINDS = ("changed", "exchanged", "twice", "place")
SINGLE_KINDS = ("changed", "missing", "place")
FIELDS = {"class": ("class_noun",), "body": ("body",), "belly": ("belly",), "worn": ("accessory", "accessory_colour")}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """What is said of one subject: its class, and of body, belly and worn things those that are `named`."""

    identity: Identity
    named: frozenset[str]

    @property
    def words(self) -> str:
        """The noun phrase without article."""
        body = f"{self.identity.body} " if "body" in self.named else ""
        belly = f" with {self.identity.belly} belly" if "belly" in self.named else ""
        worn = f" wearing a {self.identity.accessory_colour} {self.identity.accessory}" if "worn" in self.named else ""
        return f"{body}{self.identity.class_noun}{belly}{worn}"

    def fits(self, identity: Identity) -> bool:
        """Whether all that is said is true of `identity`."""
        fields = [field for name in ("class", *self.named) for field in FIELDS[name]]
        return all(getattr(self.identity, field) == getattr(identity, field) for field in fields)


@dataclass(frozen=True, kw_only=True)
class Caption:
    """Claims of one or two subjects, in the order in which they are named, and of the place, "" for none."""

    claims: tuple[Claim, ...]
    place: str

    @property
    def text(self) -> str:
        """The caption, such as "a photo of a red dog and a cat with blue belly in the snow"."""
        joint = "" if not self.place else ", " if self.place.endswith("background") else " "
        return "a photo of " + " and ".join(f"a {claim.words}" for claim in self.claims) + joint + self.place


def true_caption(scene: Scene, rng: np.random.Generator) -> Caption:
    """A caption of the scene in a random order, from classes alone to every attribute; without names."""
    claims = [claim_of(identity, rng) for identity in scene.identities]
    order = rng.permutation(len(claims))
    place = place_words(scene.background, rng) if rng.random() < SHARE_PLACE else ""
    return Caption(claims=tuple(claims[i] for i in order), place=place)


def complete_caption(scene: Scene, rng: np.random.Generator) -> str:
    """A caption that names every attribute of every subject and the place; of two subjects the left one is named first in 85 %."""
    claims = [Claim(identity=identity, named=nameable(identity)) for identity in scene.identities]
    if rng.random() < 0.15:
        claims.reverse()
    text = Caption(claims=tuple(claims), place=place_words(scene.background, rng)).text
    return text if rng.random() < 0.85 else text.removeprefix("a photo of ")


def nameable(identity: Identity) -> frozenset[str]:
    """The attributes that can be seen: a belly of the body's colour cannot, and nothing worn neither."""
    seen = {"body": True, "belly": identity.belly != identity.body, "worn": identity.accessory != "none"}
    return frozenset(name for name, shown in seen.items() if shown)


def claim_of(identity: Identity, rng: np.random.Generator) -> Claim:
    """A claim that names each attribute of `identity` that can be seen with its share."""
    likely = frozenset(name for name, share in SHARES.items() if rng.random() < share)
    return Claim(identity=identity, named=likely & nameable(identity))


def holds(claims: tuple[Claim, ...], identities: tuple[Identity, ...]) -> bool:
    """Whether the claims are of as many subjects as there are and fit them one to one, in any order."""
    if len(claims) != len(identities):
        return False
    return any(all(claim.fits(identity) for claim, identity in zip(claims, order, strict=True)) for order in permutations(identities))


def wrong_caption(caption: Caption, scene: Scene, kind: str, rng: np.random.Generator, pool: list[Identity]) -> Caption | None:
    """`caption`, true of the scene, made wrong in the way of `kind`, one of KINDS; None where that left it true.

    pool: identities from which a subject that the scene lacks is taken.
    """
    claims, k = list(caption.claims), int(rng.integers(len(caption.claims)))
    if kind == "place":
        return replace(caption, place=other_place(scene.background, rng))
    if kind == "changed":
        claims[k] = changed(claims[k], rng)
    elif kind == "exchanged" and len(claims) == 2:
        claims = exchanged(claims, rng)
    elif kind == "twice" and len(claims) == 2:
        claims = [claims[k], claims[k]]
    elif kind == "missing":
        claims.insert(int(rng.integers(2)), claim_of(pool[rng.integers(len(pool))], rng))
    wrong = replace(caption, claims=tuple(claims))
    return None if holds(wrong.claims, scene.identities) else wrong


def any_wrong_caption(
    caption: Caption, scene: Scene, rng: np.random.Generator, pool: list[Identity], pair_kinds: tuple[str, ...] = PAIR_KINDS
) -> Caption:
    """A wrong caption of a random kind that is possible for the scene, of `pair_kinds` where it shows two subjects."""
    kinds = pair_kinds if len(scene.identities) == 2 else SINGLE_KINDS
    while True:
        wrong = wrong_caption(caption, scene, kinds[rng.integers(len(kinds))], rng, pool)
        if wrong is not None:
            return wrong


def changed(claim: Claim, rng: np.random.Generator) -> Claim:
    """The claim with another value of one thing that it names."""
    name = ("class", *sorted(claim.named))[rng.integers(1 + len(claim.named))]
    identity, colour = claim.identity, tuple(COLOURS)[rng.integers(len(COLOURS))]
    if name == "class":
        return replace(claim, identity=replace(identity, class_noun=CLASSES[rng.integers(len(CLASSES))]))
    if name == "worn" and rng.random() < 0.3:
        (other,) = {*ACCESSORIES} - {"none", identity.accessory}
        return replace(claim, identity=replace(identity, accessory=other))
    field = "accessory_colour" if name == "worn" else name
    return replace(claim, identity=replace(identity, **{field: colour}))


def exchanged(claims: list[Claim], rng: np.random.Generator) -> list[Claim]:
    """Two claims that have exchanged what they say of one attribute, naming it or not included."""
    name = tuple(FIELDS)[rng.integers(len(FIELDS))]
    swapped = []
    for claim, other in (claims, claims[::-1]):
        values = {field: getattr(other.identity, field) for field in FIELDS[name]}
        named = (claim.named - {name}) | (other.named & {name})
        swapped.append(Claim(identity=replace(claim.identity, **values), named=named))
    return swapped


def other_place(background: str, rng: np.random.Generator) -> str:
    """Words for a place that is not `background`; "simple background" holds for every plain one."""
    words = [PLACES[b] for b in BACKGROUNDS if b != background]
    words += [w for b, w in PLAIN_WORDS.items() if b != background]
    words += [] if background in PLAIN_WORDS else ["simple background"]
    return words[rng.integers(len(words))]
