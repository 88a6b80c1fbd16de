"""Sharpness-aware minimisation (Foret et al. 2021): the gradient is taken where the loss is worst nearby.

Each step costs two forward and backward passes; what the optimizer, the clipping and the schedule do stays as it was.
"""

from __future__ import annotations

from typing import Any

import torch


def sharpness_aware(kind: type[Any], radius: float) -> type[Any]:
    """A trainer class whose steps use the gradient at w + radius · g / ‖g‖ (ibid., equation 2) of the trained weights.

    For steps of a single part: with gradients added over several parts, each would begin from the others' sum.
    """

    class SharpnessAware(kind):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> torch.Tensor:
            loss: torch.Tensor = super().training_step(model, dict(inputs), *rest, **named)
            weights = [weight for weight in model.parameters() if weight.grad is not None]
            with torch.no_grad():
                before = [weight.clone() for weight in weights]
                norm = torch.stack([weight.grad.norm() for weight in weights]).norm()
                for weight in weights:
                    weight += radius * weight.grad / norm.clamp(min=1e-12)
                    weight.grad = None
            super().training_step(model, dict(inputs), *rest, **named)
            with torch.no_grad():
                # Copied back, not subtracted: rounding would move the weights.
                for weight, kept in zip(weights, before, strict=True):
                    weight.copy_(kept)
            return loss

    return SharpnessAware
