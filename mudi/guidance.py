"""Guidance: combining the conditional and unconditional noise predictions."""

import torch


def classifier_free(unconditional: torch.Tensor, conditional: torch.Tensor, scale: float) -> torch.Tensor:
    """The guided prediction u + s (c - u); scale 1 is the plain conditional one.

    Shapes (B, C, h, w). Source: Ho and Salimans, Classifier-free diffusion guidance, eq. 6 with s = 1 + w.
    """
    return unconditional + scale * (conditional - unconditional)
