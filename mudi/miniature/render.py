"""Drawing scenes of the miniature world: flat shapes at four-fold supersampling, labels beside pixels."""

import numpy as np
from PIL import Image, ImageDraw

from mudi.augment import tight_box
from mudi.miniature.world import COLOURS, PLAIN_BACKGROUNDS, SIZE, Identity, Pose, Scene

SUPERSAMPLE = 4
DARK, LIGHT = (24, 24, 28), (250, 250, 250)
LOWEST = 0.97  # feet stay this far above the lower edge, in picture heights
TALLEST = 1.27  # rabbit ears reach 0.26 of the height above the head

SKY_AND_GROUND = {
    "grass": ((160, 214, 250), (140, 208, 96)),
    "beach": ((150, 208, 255), (236, 212, 160)),
    "snow": ((168, 184, 214), (244, 246, 255)),
    "night": ((56, 60, 136), (58, 94, 86)),
    "desert": ((255, 222, 170), (222, 160, 92)),
    "room": ((236, 220, 200), (146, 104, 76)),
    **{name: (colour, colour) for name, colour in PLAIN_BACKGROUNDS.items()},
}

Shape = tuple[str, tuple, tuple[int, int, int]]


def _ellipse(x: float, y: float, rx: float, ry: float, colour) -> Shape:
    return "ellipse", ((x - rx, y - ry), (x + rx, y + ry)), colour


def _polygon(points, colour) -> Shape:
    return "polygon", tuple(points), colour


def _ears(noun: str, body, belly) -> list[Shape]:
    """The shapes that tell the classes apart; those of a dog hang before the head, the rest stand behind."""
    shapes = []
    for side in (-1, 1):
        x = 0.5 + side * 0.27
        if noun == "cat":
            tip = (0.5 + side * 0.40, -0.02)
            shapes.append(_polygon([(0.5 + side * 0.42, 0.30), tip, (0.5 + side * 0.08, 0.12)], body))
            shapes.append(_polygon([(0.5 + side * 0.36, 0.22), (0.5 + side * 0.36, 0.07), (0.5 + side * 0.2, 0.14)], belly))
        elif noun == "bear":
            shapes.append(_ellipse(x + side * 0.05, 0.12, 0.15, 0.115, body))
            shapes.append(_ellipse(x + side * 0.05, 0.12, 0.075, 0.06, belly))
        elif noun == "rabbit":
            shapes.append(_ellipse(0.5 + side * 0.2, -0.02, 0.10, 0.24, body))
            shapes.append(_ellipse(0.5 + side * 0.2, -0.02, 0.045, 0.17, belly))
        else:
            shapes.append(_ellipse(0.5 + side * 0.38, 0.30, 0.12, 0.20, belly))
    return shapes


def subject_shapes(identity: Identity) -> list[Shape]:
    """The subject from back to front in a unit box: x to the right, y down, feet at y = 1."""
    body, belly = COLOURS[identity.body], COLOURS[identity.belly]
    ears = _ears(identity.class_noun, body, belly)
    head = _ellipse(0.5, 0.29, 0.37, 0.235, body)
    shapes = [_ellipse(0.90, 0.72, 0.13, 0.07, body), _ellipse(0.5, 0.735, 0.36, 0.265, body)]
    shapes += [_ellipse(0.5 + s * 0.22, 0.955, 0.15, 0.055, body) for s in (-1, 1)]
    shapes.append(_ellipse(0.5, 0.755, 0.23, 0.19, belly))
    shapes += [head, *ears] if identity.class_noun == "dog" else [*ears, head]
    for side in (-1, 1):
        shapes.append(_ellipse(0.5 + side * 0.15, 0.25, 0.085, 0.07, LIGHT))
        shapes.append(_ellipse(0.5 + side * 0.14, 0.255, 0.045, 0.045, DARK))
    shapes.append(_ellipse(0.5, 0.385, 0.15, 0.085, belly))
    shapes.append(_ellipse(0.5, 0.35, 0.06, 0.04, DARK))
    worn = COLOURS.get(identity.accessory_colour)
    if identity.accessory == "hat":
        shapes.append(_polygon([(0.24, 0.12), (0.28, -0.13), (0.72, -0.13), (0.76, 0.12)], worn))
        shapes.append(_polygon([(0.08, 0.15), (0.08, 0.06), (0.92, 0.06), (0.92, 0.15)], worn))
    elif identity.accessory == "scarf":
        shapes.append(_polygon([(0.14, 0.49), (0.86, 0.49), (0.82, 0.62), (0.18, 0.62)], worn))
        shapes.append(_polygon([(0.58, 0.58), (0.78, 0.58), (0.80, 0.84), (0.62, 0.84)], worn))
    return shapes


def _paint(draw: ImageDraw.ImageDraw, label: ImageDraw.ImageDraw, identity: Identity, pose: Pose, index: int) -> None:
    scale = SIZE * SUPERSAMPLE
    left, top = pose.centre_x - pose.width / 2, pose.base_y - pose.height

    def place(x: float, y: float) -> tuple[float, float]:
        x = 1 - x if pose.mirrored else x
        return (left + (x + pose.lean * (1 - y)) * pose.width) * scale, (top + y * pose.height) * scale

    for kind, points, colour in subject_shapes(identity):
        if kind == "ellipse":
            # Leaning shifts a whole ellipse by its centre; mirrored corners come out swapped.
            (x0, y0), (x1, y1) = points
            cx, cy = place((x0 + x1) / 2, (y0 + y1) / 2)
            rx, ry = (x1 - x0) / 2 * pose.width * scale, (y1 - y0) / 2 * pose.height * scale
            corners = [cx - rx, cy - ry, cx + rx, cy + ry]
            draw.ellipse(corners, fill=colour)
            label.ellipse(corners, fill=index)
        else:
            placed = [place(*p) for p in points]
            draw.polygon(placed, fill=colour)
            label.polygon(placed, fill=index)


def _paint_background(draw: ImageDraw.ImageDraw, name: str, rng: np.random.Generator) -> None:
    side = SIZE * SUPERSAMPLE
    horizon = side * rng.uniform(0.42, 0.58)

    if name not in SKY_AND_GROUND:
        raise ValueError(f"unknown background {name!r}; known: {', '.join(SKY_AND_GROUND)}")
    sky, ground = SKY_AND_GROUND[name]
    draw.rectangle([0, 0, side, horizon], fill=sky)
    draw.rectangle([0, horizon, side, side], fill=ground)
    if name == "beach":
        draw.rectangle([0, horizon - side * 0.09, side, horizon], fill=(60, 150, 205))
    elif name == "night":
        x, y, r = side * rng.uniform(0.1, 0.9), side * 0.13, side * 0.075
        draw.ellipse([x - r, y - r, x + r, y + r], fill=(250, 240, 196))
    elif name == "room":
        x = side * rng.uniform(0.1, 0.7)
        draw.rectangle([x, side * 0.08, x + side * 0.2, side * 0.28], fill=(150, 212, 244))


def render(identities, poses, background: str, rng: np.random.Generator) -> Scene:
    """The scene with the subjects painted in the given order, later ones in front."""
    side = SIZE * SUPERSAMPLE
    picture, labels = Image.new("RGB", (side, side)), Image.new("L", (side, side))
    draw, label = ImageDraw.Draw(picture), ImageDraw.Draw(labels)
    _paint_background(draw, background, rng)
    for index, (identity, pose) in enumerate(zip(identities, poses, strict=True), start=1):
        _paint(draw, label, identity, pose, index)
    image = np.asarray(picture.reduce(SUPERSAMPLE))
    blocks = np.asarray(labels).reshape(SIZE, SUPERSAMPLE, SIZE, SUPERSAMPLE)
    half = SUPERSAMPLE * SUPERSAMPLE / 2
    masks = tuple((blocks == i).sum((1, 3)) >= half for i in range(1, len(identities) + 1))
    return Scene(image=image, masks=masks, boxes=tuple(map(tight_box, masks)), identities=tuple(identities), background=background)


def random_pose(rng: np.random.Generator, centre_x: float, width: float) -> Pose:
    """A pose of the given width whose proportions and stance vary; heights are about 1.35 widths, ears and hat not counted."""
    height = width * rng.uniform(1.28, 1.42)
    base_y = rng.uniform(min(max(LOWEST - 0.17, TALLEST * height + 0.01), LOWEST), LOWEST)
    lean, mirrored = rng.uniform(-0.08, 0.08), bool(rng.random() < 0.5)
    return Pose(centre_x=centre_x, base_y=base_y, width=width, height=height, lean=lean, mirrored=mirrored)


def single_scene(rng: np.random.Generator, identity: Identity, background: str) -> Scene:
    """One subject, 36 to 53 % of the picture wide, anywhere that it fits."""
    width = rng.uniform(0.36, 0.53)
    return render([identity], [random_pose(rng, rng.uniform(width / 2 + 0.02, 0.98 - width / 2), width)], background, rng)


def pair_scene(rng: np.random.Generator, left: Identity, right: Identity, background: str) -> Scene:
    """Two subjects side by side, each 35 to 45 % of the picture wide; identities are ordered left to right."""
    widths = rng.uniform(0.35, 0.45, 2)
    slack = 1 - widths.sum()
    gaps = rng.dirichlet((1.5, 1.0, 1.5)) * slack
    centres = (gaps[0] + widths[0] / 2, 1 - gaps[2] - widths[1] / 2)
    poses = [random_pose(rng, centre, width) for centre, width in zip(centres, widths, strict=True)]
    return render([left, right], poses, background, rng)
