"""LPIPS: how different two pictures look, by the features of a classifier."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypeAlias

import torch

from .checks import as_numbers

LpipsNetwork: TypeAlias = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Two batches of pictures [b, 3, h, w] in -1 to 1 → b distances, in any shape."""

CLASSIFIERS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}
"""What LPIPS calls them → what torchvision calls them."""

MIN_SIDE = 32
"""Pixels. Smaller pictures do not survive the pooling of every classifier; LPIPS was calibrated on patches of 64."""


def lpips(images: torch.Tensor, others: torch.Tensor, *, network: LpipsNetwork) -> torch.Tensor:
    """[b] LPIPS of pairs of pictures: Σ_l mean_hw ‖w_l ⊙ (f̂_l(x) - f̂_l(y))‖², f̂_l of layer l at unit length.

    Zhang et al., equation 1, https://arxiv.org/abs/1801.03924. 0 for equal pictures, seldom above 1; lower is more
    alike. Whether that is better depends on the question: near the reference is faithful, a set of pictures far from
    each other is diverse.

    Pitfalls: "alex", the authors' choice for a metric, "vgg" and "squeeze" give different numbers, and so do other
    picture sizes: name the network and the size. A shift of the picture or another pose changes it more than another
    face does, so it measures no identity.

    Args:
        images, others: [b, 3, h, w] floating point in -1 to 1, of equal shape, at least `MIN_SIDE` pixels a side.
        network: see `load_lpips`.

    Raises:
        ValueError: other shapes or ranges.
    """
    if images.shape != others.shape or images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape:
        raise ValueError(
            f"LPIPS was given pictures of the shapes {list(images.shape)} and {list(others.shape)}; expected two equal "
            "shapes [b, 3, h, w]."
        )
    if min(images.shape[-2:]) < MIN_SIDE:
        raise ValueError(
            f"LPIPS was given pictures of {images.shape[-1]}×{images.shape[-2]} pixels; expected at least {MIN_SIDE} a "
            "side. Enlarge both."
        )
    for pictures in (images, others):
        low, high = float(pictures.min()), float(pictures.max())
        # Written so that NaN is refused.
        if not (pictures.is_floating_point() and low >= -1.001 and high <= 1.001):
            raise ValueError(
                f"LPIPS was given pictures of the type {pictures.dtype} with values from {low:.3g} to {high:.3g}; "
                "expected floating point in -1 to 1."
            )
    with torch.no_grad():
        distances = network(as_numbers(images), as_numbers(others))
    return distances.reshape(len(images))


def load_lpips(
    net: Literal["alex", "vgg", "squeeze"] = "alex", *, download: bool = False, device: torch.device | str = "cpu"
) -> LpipsNetwork:
    """The network of LPIPS 0.1, by torchmetrics: torchvision's classifier, and the authors' weights of its layers.

    The layers' weights are part of torchmetrics. The classifier's (alex: 233 MB, squeeze: 5 MB, vgg: 528 MB) lie in
    torch's hub folder, where torchvision puts them.

    Args:
        net: one of `CLASSIFIERS`.
        download: fetch the classifier's weights where they are not there yet.

    Raises:
        ValueError: no such network.
        RuntimeError: torchmetrics or torchvision is not installed, or the weights are not there or cannot be read.
    """
    if net not in CLASSIFIERS:
        raise ValueError(f"LPIPS knows no network {net!r}; choose one of {', '.join(CLASSIFIERS)}.")
    try:
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity
        from torchvision.models import get_model_weights
    except ImportError as error:
        raise RuntimeError(
            f"LPIPS needs the packages torchmetrics and torchvision ({error}). Install them with "
            "`pip install torchmetrics torchvision`."
        ) from error
    address = get_model_weights(CLASSIFIERS[net]).DEFAULT.url
    file = Path(torch.hub.get_dir(), "checkpoints", address.rsplit("/", 1)[-1])
    if not download and not file.is_file():
        raise RuntimeError(
            f"LPIPS with {net!r} needs the weights of torchvision's {CLASSIFIERS[net]}, and {file} is not there. "
            f"Allow the download, or put the file of {address} there."
        )
    try:
        # torchvision fills the weights with random numbers before it loads them.
        with torch.random.fork_rng(devices=[]):
            network = LearnedPerceptualImagePatchSimilarity(net_type=net).net
    except Exception as error:  # no connection, or damaged bytes, which raise nearly anything
        raise RuntimeError(
            f"The weights of LPIPS with {net!r} could not be loaded from {file} or {address}: {error}. Without a "
            "connection, put the whole file there."
        ) from error
    return network.to(device)
