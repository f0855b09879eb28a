"""Similarities of embeddings: CLIP score, image alignment, text alignment.

All are plain cosines in -1 to 1, higher is better: not clamped at 0, not scaled, one value per picture. They have their
names by which embeddings they compare:

* CLIP image embeddings with those of reference photos: image alignment (CLIP-I);
* DINO's class token with those of reference photos: DINO similarity (https://arxiv.org/abs/2208.12242);
* face embeddings (ArcFace and its like) with those of reference photos: face similarity;
* CLIP image embeddings with those of the prompt: CLIP score; of the prompt without its placeholder: text alignment.

Cosines of two networks do not compare, and neither do those of one network between images and between image and text.
An encoder that the method under test takes as its input, or that was its loss, flatters it: evaluate with another.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import torch

from .checks import Numbers, as_features, as_numbers, check_widths


def clip_score(image_embeds: Numbers, text_embeds: Numbers) -> torch.Tensor:
    """[n] cos(CLIP(x), CLIP(τ)) of pictures and the prompts they were asked for.

    It is the cosine alone. Hessel et al. (https://arxiv.org/abs/2104.08718) print 2.5 · max(cos, 0), and
    torchmetrics' CLIPScore max(100 · mean cos, 0); from this function's values both can be computed, not the reverse.

    Args:
        image_embeds: [n, E], normalised or not.
        text_embeds: [n, E], or [1, E] for one prompt.

    Raises:
        ValueError: other shapes, different widths or numbers, or embeddings that are NaN, infinite or zero.
    """
    images = _directions(image_embeds, name="image_embeds")
    texts = _directions(text_embeds, name="text_embeds").to(images)
    check_widths(images, texts, name="image_embeds", other_name="text_embeds")
    if len(texts) not in (1, len(images)):
        raise ValueError(
            f"{len(images)} pictures came with {len(texts)} prompts; expected one prompt per picture, or one for all."
        )
    return (images * texts).sum(dim=-1)


def text_alignment(
    image_embeds: Numbers,
    prompts: Sequence[str],
    *,
    placeholder: str | Sequence[str],
    encode_text: Callable[[list[str]], Numbers],
) -> torch.Tensor:
    """[n] CLIP score with the prompts without their placeholder, which means nothing to CLIP.

    Text similarity of Textual Inversion (https://arxiv.org/abs/2208.01618, section 5: "A photo of on the moon") and
    text alignment of Custom Diffusion (https://arxiv.org/abs/2212.04488). Higher is better; read it together with image
    alignment, since a method that ignores the references excels here.

    Args:
        image_embeds: [n, E].
        prompts: n prompts, each with the placeholder. The prompts of methods that need no placeholder have none, and go
            to `clip_score` as they are.
        placeholder: see `remove_placeholder`.
        encode_text: n prompts → text embeddings [n, E] of the same CLIP.
    """
    without = [remove_placeholder(prompt, placeholder) for prompt in prompts]
    return clip_score(image_embeds, encode_text(without))


def remove_placeholder(prompt: str, placeholder: str | Sequence[str]) -> str:
    """The prompt without the word that stands for the person: "a photo of sks, in Paris" → "a photo of, in Paris".

    Args:
        placeholder: a word such as "sks", "S*" or "<anna>", or several that each occur. They are removed wherever they
            stand as words of their own, whatever their case; "sks" stays in "desks".

    Raises:
        ValueError: a placeholder is empty or does not occur, or nothing is left.
    """
    words = [placeholder] if isinstance(placeholder, str) else list(placeholder)
    left = prompt
    for word in words:
        # No \b: placeholders such as <anna> do not begin with a letter.
        left, removed = re.subn(rf"(?<!\w){re.escape(word.strip())}(?!\w)", " ", left, flags=re.IGNORECASE)
        if not word.strip() or not removed:
            raise ValueError(
                f"The placeholder {word!r} does not occur in the prompt {prompt!r}. Give the word that the method was "
                "trained with, and prompts that contain it."
            )
    left = re.sub(r"\s+(?=[,.;:!?)])", "", re.sub(r"\s+", " ", left)).strip()
    if not re.search(r"\w", left):
        raise ValueError(f"Nothing is left of the prompt {prompt!r} without {', '.join(words)}.")
    return left


def image_alignment(
    generated: Numbers, references: Numbers, *, found: torch.Tensor | Sequence[bool] | None = None
) -> torch.Tensor:
    """[..., g] of each generated picture, its mean cosine with all reference photos of one person.

    The mean over an identity's pictures is image alignment as Textual Inversion defines it (https://arxiv.org/abs/
    2208.01618, section 5): the mean pairwise cosine. On face embeddings this is face similarity, on DINO's class token
    DINO similarity.

    A picture in which no face was found counts as 0, about what the face of a stranger gets; it is never dropped, or a
    method could gain by faces that no detector finds. Print how many were found beside the mean.

    Pitfalls: the highest values come from copying a reference, so the picture whose caption and pose are asked for
    must not be among the references. The bound that real photos of the person reach is the mean of the same function
    over photos that are not among them.

    Args:
        generated: [..., g, E], of one identity or of several with g pictures each.
        references: [..., r, E] with the same leading axes, or [r, E]; photos without a face are left out beforehand.
        found: [..., g] whether there is an embedding; what stands in `generated` for the others is not read.

    Raises:
        ValueError: other shapes, different widths, or embeddings that are NaN, infinite or zero, unless not found.
    """
    rows = as_numbers(generated)
    if found is None:
        mask = torch.ones(rows.shape[:-1], dtype=torch.bool, device=rows.device)
    else:
        mask = torch.as_tensor(found, device=rows.device).bool()
        if mask.shape != rows.shape[:-1]:
            raise ValueError(
                f"found has the shape {list(mask.shape)}, but there are {list(rows.shape[:-1])} generated pictures; "
                "give one value per picture."
            )
        rows = torch.where(mask.unsqueeze(-1), rows, 1.0)
    pictures = _directions(rows, name="generated", batched=True)
    photos = _directions(references, name="references", batched=True).to(pictures)
    check_widths(pictures, photos, name="generated", other_name="references")
    if photos.ndim > 2 and photos.shape[:-2] != pictures.shape[:-2]:
        raise ValueError(
            f"generated is of {list(pictures.shape[:-2])} people, but references of {list(photos.shape[:-2])}; "
            "expected the references of each of them, or of one person for all."
        )
    # A mean of dot products is the dot product with the mean.
    cosines = (pictures * photos.mean(dim=-2, keepdim=True)).sum(dim=-1)
    return torch.where(mask, cosines, 0.0)


def _directions(embeds: Numbers, *, name: str, batched: bool = False) -> torch.Tensor:
    """The embeddings at length 1."""
    rows = as_features(embeds, name=name, batched=batched)
    lengths = rows.norm(dim=-1, keepdim=True)
    if bool((lengths == 0).any()):
        raise ValueError(
            f"{name} has {int((lengths == 0).sum())} embeddings of length 0, which have no direction. Leave out "
            "pictures without an embedding, or say in `found` that they have none."
        )
    return rows / lengths
