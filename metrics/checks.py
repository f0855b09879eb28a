"""What every metric asks of its input: numbers that are there, finite, and of matching widths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import torch

Numbers: TypeAlias = "torch.Tensor | np.ndarray | Sequence[Sequence[float]]"


def as_features(values: Numbers, *, name: str, batched: bool = False) -> torch.Tensor:
    """Feature rows on their device, in single precision or better.

    Args:
        values: [n, d], or [..., n, d] where `batched`; n and d at least 1.
        name: what messages call them.

    Raises:
        ValueError: another shape, nothing in it, or values that are NaN or infinite.
    """
    features = as_numbers(values)
    if features.ndim < 2 or (features.ndim > 2 and not batched) or features.numel() == 0:
        raise ValueError(
            f"{name} has the shape {list(features.shape)}; expected {'[..., n, d]' if batched else '[n, d]'}: n "
            "feature vectors of width d, at least one of each."
        )
    rows = features.flatten(0, -2).isfinite().all(dim=-1)
    if not bool(rows.all()):
        raise ValueError(
            f"{name} has NaN or infinite values in {int((~rows).sum())} of {len(rows)} rows, first in row "
            f"{int((~rows).int().argmax())}. Look at the network that made these features and at its input."
        )
    return features


def check_widths(features: torch.Tensor, others: torch.Tensor, *, name: str, other_name: str) -> None:
    """Both have to come from one network.

    Raises:
        ValueError: their last axes differ in length.
    """
    if features.shape[-1] != others.shape[-1]:
        raise ValueError(
            f"{name} has features of width {features.shape[-1]}, but {other_name} of width {others.shape[-1]}. Compute "
            "both with the same network."
        )


def as_numbers(values: Numbers) -> torch.Tensor:
    """A tensor in float32 or float64: sums of many in half precision are rough. Python's numbers become float64."""
    tensor = values if isinstance(values, torch.Tensor) else torch.as_tensor(np.asarray(values))
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def double(values: torch.Tensor) -> torch.Tensor:
    """The same values in float64 without gradients, on their device, or on the CPU where the device has no float64."""
    values = values.detach()
    return (values.cpu() if values.device.type == "mps" else values).double()
