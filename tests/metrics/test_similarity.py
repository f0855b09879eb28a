"""Cosines, held against CLIP itself, torchmetrics and loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional.multimodal.clip_score import clip_score as torchmetrics_clip_score
from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPVisionConfig

from bolid.metrics.similarity import clip_score, image_alignment, remove_placeholder, text_alignment


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    numbers = list(zip(a.tolist(), b.tolist(), strict=True))
    lengths = [math.sqrt(sum(pair[side] ** 2 for pair in numbers)) for side in (0, 1)]
    return sum(x * y for x, y in numbers) / (lengths[0] * lengths[1])


# CLIP score


@torch.no_grad()
def test_clip_score_is_what_clip_compares():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
        text = CLIPTextConfig(vocab_size=50, num_attention_heads=2, max_position_embeddings=8, **sizes)
        vision = CLIPVisionConfig(image_size=16, patch_size=8, num_attention_heads=2, **sizes)
        model = CLIPModel(
            CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=12)
        ).eval()
    pictures = normal(5, 3, 16, 16)
    prompts = torch.randint(3, 49, (5, 8), generator=torch.Generator().manual_seed(1))
    outputs = model(input_ids=prompts, pixel_values=pictures)
    expected = (outputs.logits_per_image / model.logit_scale.exp()).diagonal()
    lengths = torch.tensor([[0.1], [1.0], [3.0], [20.0], [500.0]])
    found = clip_score(outputs.image_embeds * lengths, outputs.text_embeds * lengths.flip(0))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert found.std() > 0.01
    one = clip_score(outputs.image_embeds, outputs.text_embeds[:1])
    torch.testing.assert_close(one, outputs.logits_per_image[:, 0] / model.logit_scale.exp(), rtol=1e-5, atol=1e-6)


class MeanColour:
    """As much of a CLIP as torchmetrics needs; its text embeddings are given."""

    config = None

    def __init__(self, text_embeds: torch.Tensor):
        self.text_embeds = text_embeds

    def to(self, device: torch.device) -> MeanColour:
        return self

    def get_image_features(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return pixel_values.mean(dim=(2, 3))

    def get_text_features(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.text_embeds

    @staticmethod
    def preprocess(images: list[torch.Tensor] | None = None, text: list[str] | None = None, **_: Any) -> dict[str, Any]:
        if images is not None:
            return {"pixel_values": torch.stack(images)}
        return {"input_ids": torch.zeros(len(text), 1), "attention_mask": torch.ones(len(text), 1)}


@pytest.mark.parametrize("sign", [1, -1])
def test_torchmetrics_clamps_and_scales_the_mean(sign: int):
    pictures = normal(4, 3, 8, 8)
    model = MeanColour(sign * (pictures.mean(dim=(2, 3)) + 0.1 * normal(4, 3, seed=1)))
    theirs = torchmetrics_clip_score(pictures, ["a"] * 4, lambda: (model, model.preprocess))
    ours = clip_score(pictures.mean(dim=(2, 3)), model.text_embeds)
    assert float(theirs) == pytest.approx(max(100 * float(ours.mean()), 0), rel=1e-5)
    assert sign * ours.mean() > 0.3


def test_opposite_embeddings_are_at_minus_1():
    embeds = normal(3, 6)
    torch.testing.assert_close(clip_score(embeds, -2 * embeds), -torch.ones(3))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), lengths=st.lists(st.floats(1e-3, 1e3), min_size=4, max_size=4))
def test_lengths_do_not_count(seed: int, lengths: list[float]):
    images, texts = normal(4, 5, seed=seed).double(), normal(4, 5, seed=seed + 1).double()
    scaled = images * torch.tensor(lengths).double().unsqueeze(-1)
    found = clip_score(scaled, texts)
    torch.testing.assert_close(found, clip_score(texts, images), rtol=1e-9, atol=1e-12)
    assert found.abs().max() <= 1 + 1e-12
    assert found.tolist() == pytest.approx([cosine(a, b) for a, b in zip(images, texts, strict=True)], abs=1e-9)


def test_half_precision_is_summed_in_single():
    images, texts = normal(4, 1024).half(), normal(4, 1024, seed=1).half()
    found = clip_score(images, texts)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, clip_score(images.double(), texts.double()).float(), rtol=1e-4, atol=1e-6)
    assert clip_score(images.double().numpy(), texts.double().numpy()).dtype == torch.float64


# Image alignment, face and DINO similarity


def test_image_alignment_is_the_mean_over_all_pairs():
    generated, references = normal(3, 6), normal(4, 6, seed=1) * 7
    found = image_alignment(generated, references)
    assert found.tolist() == pytest.approx(
        [sum(cosine(picture, photo) for photo in references) / 4 for picture in generated], abs=1e-6
    )
    pairs = [cosine(picture, photo) for picture in generated for photo in references]
    assert float(found.mean()) == pytest.approx(sum(pairs) / 12, abs=1e-6)


def test_several_people_are_several_times_one():
    generated, references = normal(2, 3, 6), normal(2, 4, 6, seed=1)
    found = image_alignment(generated, references)
    for person in range(2):
        torch.testing.assert_close(found[person], image_alignment(generated[person], references[person]))
    shared = image_alignment(generated, references[0])
    torch.testing.assert_close(shared[1], image_alignment(generated[1], references[0]))


@settings(deadline=None, max_examples=20)
@given(order=st.permutations(range(5)))
def test_the_order_of_the_references_does_not_count(order: list[int]):
    generated, references = normal(3, 4).double(), normal(5, 4, seed=1).double()
    torch.testing.assert_close(
        image_alignment(generated, references[list(order)]), image_alignment(generated, references)
    )


@pytest.mark.parametrize("missing", [math.nan, 0.0, 5.0])
def test_a_face_that_was_not_found_counts_as_0(missing: float):
    generated, references = normal(4, 6), normal(2, 6, seed=1)
    expected = image_alignment(generated, references)
    generated[1] = missing
    found = image_alignment(generated, references, found=[True, False, True, True])
    expected[1] = 0
    torch.testing.assert_close(found, expected)
    nobody = image_alignment(torch.full((2, 6), math.nan), references, found=torch.tensor([False, False]))
    assert nobody.tolist() == [0, 0]


# Placeholders


@pytest.mark.parametrize(
    ("prompt", "placeholder", "expected"),
    [
        ("A photo of S* on the moon", "S*", "A photo of on the moon"),
        ("a photo of sks, in Paris", "sks", "a photo of, in Paris"),
        ("<anna> at two desks (<Anna>)", "<anna>", "at two desks ()"),
        ("sks at two desks, by sks.", "sks", "at two desks, by."),
        ("a  photo\nof sks\n", "sks", "a photo of"),
        ("forest sks man", ["sks", "forest"], "man"),
        ("the sks-like man", "sks", "the -like man"),
        ("a photo of v1* v2*", ["v1*", "v2*"], "a photo of"),
    ],
)
def test_the_placeholder_is_removed(prompt: str, placeholder: str | list[str], expected: str):
    assert remove_placeholder(prompt, placeholder) == expected


@settings(deadline=None, max_examples=50)
@given(
    words=st.lists(st.sampled_from(["a", "photo", "man", "sksy", "desks"]), min_size=1, max_size=6), at=st.integers(0)
)
def test_removing_what_was_put_in_gives_the_prompt(words: list[str], at: int):
    place = at % (len(words) + 1)
    prompt = " ".join([*words[:place], "sks", *words[place:]])
    assert remove_placeholder(prompt, "sks") == " ".join(words)


def test_text_alignment_asks_for_the_prompts_without_placeholder():
    images, texts = normal(2, 6), normal(2, 6, seed=1)
    asked = []

    def encode_text(prompts: list[str]) -> torch.Tensor:
        asked.extend(prompts)
        return texts

    found = text_alignment(images, ["sks at sea", "a photo of sks"], placeholder="sks", encode_text=encode_text)
    assert asked == ["at sea", "a photo of"]
    torch.testing.assert_close(found, clip_score(images, texts))


# What is refused


def test_placeholders_that_cannot_be_removed():
    with pytest.raises(ValueError, match="'sks' does not occur in the prompt 'two desks'"):
        remove_placeholder("two desks", "sks")
    with pytest.raises(ValueError, match="'forest' does not occur"):
        remove_placeholder("sks man", ["sks", "forest"])
    with pytest.raises(ValueError, match="' ' does not occur"):
        remove_placeholder("a man", " ")
    with pytest.raises(ValueError, match="Nothing is left of the prompt 'sks!' without sks"):
        remove_placeholder("sks!", "sks")


def test_embeddings_that_do_not_fit():
    with pytest.raises(ValueError, match="image_embeds has features of width 6, but text_embeds of width 5"):
        clip_score(normal(2, 6), normal(2, 5))
    with pytest.raises(ValueError, match="3 pictures came with 2 prompts"):
        clip_score(normal(3, 6), normal(2, 6))
    with pytest.raises(ValueError, match="generated has features of width 6, but references of width 5"):
        image_alignment(normal(2, 6), normal(2, 5))
    with pytest.raises(ValueError, match=r"generated is of \[2\] people, but references of \[3\]"):
        image_alignment(normal(2, 4, 6), normal(3, 4, 6))
    with pytest.raises(ValueError, match=r"found has the shape \[3\], but there are \[2\] generated pictures"):
        image_alignment(normal(2, 6), normal(2, 6), found=[True] * 3)


def test_embeddings_that_are_none():
    with pytest.raises(ValueError, match=r"image_embeds has the shape \[0, 6\]"):
        clip_score(normal(0, 6), normal(0, 6))
    with pytest.raises(ValueError, match=r"references has the shape \[0, 6\]"):
        image_alignment(normal(2, 6), normal(0, 6))
    with pytest.raises(ValueError, match="references has NaN or infinite values in 1 of 1 rows"):
        image_alignment(normal(2, 6), torch.full((1, 6), math.nan))
    with pytest.raises(ValueError, match="generated has NaN or infinite values in 1 of 2 rows, first in row 1"):
        image_alignment(torch.tensor([[1.0, 0.0], [math.nan, 0.0]]), normal(1, 2))
    with pytest.raises(ValueError, match="text_embeds has 1 embeddings of length 0"):
        clip_score(normal(2, 3), torch.tensor([[0.0, 0, 0], [1, 0, 0]]))
