"""What the judges learn from: boxes read off label maps, and the flaws that a diffusion model gives to pictures."""

import numpy as np
import torch
import torch.nn.functional as F

SHARE_FLAWED = 0.6


def boxes_of(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Boxes float32 (N, 2, 4) around labels 1 and 2 and which of them are present, bool (N, 2).

    `labels` is uint8 (N, H, W); boxes are (x0, y0, x1, y1) in pixels, exclusive at the right and
    bottom, and zero where a label is absent.
    """
    height, width = labels.shape[1:]
    masks = labels[:, None] == np.array([1, 2], np.uint8)[:, None, None]
    columns, rows = masks.any(2), masks.any(3)
    present = columns.any(2)
    corners = [columns.argmax(2), rows.argmax(2), width - columns[..., ::-1].argmax(2), height - rows[..., ::-1].argmax(2)]
    return np.stack(corners, -1).astype(np.float32) * present[..., None], present


def floats(images: np.ndarray) -> torch.Tensor:
    """uint8 (N, H, W, 3) to float (N, 3, H, W) in 0..1."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255


def _uniform(count: int, low: float, high: float, noise: torch.Generator, channels: int = 1) -> torch.Tensor:
    return low + (high - low) * torch.rand(count, channels, 1, 1, generator=noise)


def flawed(images: torch.Tensor, noise: torch.Generator, strength: float = 1.0) -> torch.Tensor:
    """`images` (N, 3, H, W) in 0..1, a share of them with the flaws of generated pictures.

    Lost resolution and blur (an autoencoder at about 30 dB), smooth latent-sized blotches and pixel
    noise, and a drift of saturation, brightness and white (guidance, mean-shifted noise). Each is
    drawn on its own for each picture, mild enough that every attribute stays readable.
    """
    count, _, height, width = images.shape
    coarse = int(torch.randint(height // 2, height, (1,), generator=noise))
    blurred = F.interpolate(images, size=(coarse, coarse), mode="bilinear", antialias=True, align_corners=False)
    blurred = F.interpolate(blurred, size=(height, width), mode="bicubic", align_corners=False)
    shown = torch.lerp(images, blurred, _uniform(count, -0.4, 1.0, noise).clamp(0, 1) * min(strength, 1.0))

    blotches = torch.randn(count, 3, height // 4, width // 4, generator=noise)
    blotches = F.interpolate(blotches, size=(height, width), mode="bilinear", align_corners=False)
    shown = shown + strength * _uniform(count, 0, 0.05, noise) * blotches
    shown = shown + strength * _uniform(count, 0, 0.03, noise) * torch.randn(shown.shape, generator=noise)

    gray = shown.mean(1, keepdim=True)
    shown = torch.lerp(gray, shown, 1 + strength * _uniform(count, -0.2, 0.25, noise))
    shown = shown * (1 + strength * _uniform(count, -0.08, 0.08, noise, 3)) + strength * _uniform(count, -0.05, 0.05, noise)
    return torch.where(_uniform(count, 0, 1, noise) < SHARE_FLAWED, shown.clamp(0, 1), images)
