"""The tokens of captions are CLIP's, numbered anew."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional
from transformers import CLIPTokenizer

from bolid.world.identities import identity
from bolid.world.networks.vocabulary import END, START, VOCABULARY_SIZE, Vocabulary, clip_ids, write_tokenizer
from bolid.world.scenes import scene

LONG = "a photo of a person in a park " * 12

UNUSUAL = (
    "",
    "A PHOTO of Someone",
    "it's the person's t-shirt, they'll wave",
    "  two   spaces\tand\na line ",
    "1234 balloons at 12:30!?",
    "a café, naïve; déjà vu",
    "猫 and 🎈🎈",
    "a <person> & (someone) [else] ... -- ###",
    LONG,
)


@pytest.fixture(scope="module")
def captions() -> list[str]:
    """In every wording that occurs."""
    drawn = [scene(identity(2000 + number), picture).caption for number in range(150) for picture in range(5)]
    assert len(set(drawn)) > 700
    return drawn


@pytest.fixture(scope="module")
def vocabulary(captions: list[str]) -> Vocabulary:
    return Vocabulary.of(captions)


@pytest.fixture(scope="module")
def host_tokenizer(comfyui_dir: Path) -> CLIPTokenizer:
    """The one of ComfyUI."""
    return CLIPTokenizer.from_pretrained(comfyui_dir / "comfy" / "sd1_tokenizer")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    folder = tmp_path_factory.mktemp("tokenizer") / "new"
    write_tokenizer(folder)
    return CLIPTokenizer.from_pretrained(folder)


def padded(tokenizer: CLIPTokenizer, texts: list[str]) -> torch.Tensor:
    """As Stable Diffusion's pipelines do it."""
    return tokenizer(texts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids


def test_numbers_are_clips(vocabulary: Vocabulary, captions: list[str], host_tokenizer: CLIPTokenizer):
    ids = vocabulary.ids(captions)
    assert ids.shape == (len(captions), 77) and ids.min() > 0
    assert torch.equal(torch.tensor((0, *vocabulary.tokens))[ids], padded(host_tokenizer, captions))


def test_long_texts_are_cut_and_still_end(host_tokenizer: CLIPTokenizer):
    vocabulary = Vocabulary.of([LONG])
    (ids,) = vocabulary.ids([LONG])
    clips = torch.tensor((0, *vocabulary.tokens))[ids]
    assert torch.equal(clips, padded(host_tokenizer, [LONG])[0])
    assert (clips[0], clips[-1]) == (START, END) and END not in clips[:-1]


def test_words_that_no_caption_uses_are_one(vocabulary: Vocabulary, host_tokenizer: CLIPTokenizer):
    text = "a photo of a zebra, xylophone"
    (ids,) = vocabulary.ids([text])
    clips = padded(host_tokenizer, [text])[0]
    known = torch.tensor([token in vocabulary.tokens for token in clips.tolist()])
    assert 2 <= (~known).sum() < 8
    assert (ids[~known] == 0).all() and (ids[known] > 0).all()


def test_tokens_are_sorted_and_end_with_start_and_end(vocabulary: Vocabulary):
    assert list(vocabulary.tokens) == sorted(set(vocabulary.tokens))
    assert vocabulary.tokens[-2:] == (START, END)
    assert len(vocabulary) == len(vocabulary.tokens) + 1
    # Two rows before the last are the start, the last is the end: what the text encoder is told.
    assert vocabulary.ids([""])[0].tolist() == [len(vocabulary) - 2] + [len(vocabulary) - 1] * 76
    assert Vocabulary.of([]).tokens == (START, END)


def test_a_vocabulary_of_its_tokens_is_the_same(vocabulary: Vocabulary, captions: list[str]):
    again = Vocabulary(torch.tensor(vocabulary.tokens).tolist())
    assert torch.equal(again.ids(captions), vocabulary.ids(captions))


def test_spread_puts_rows_where_clips_numbers_are(
    vocabulary: Vocabulary, captions: list[str], host_tokenizer: CLIPTokenizer
):
    table = torch.randn(len(vocabulary), 3, generator=torch.Generator().manual_seed(0))
    spread = vocabulary.spread(table)
    assert spread.shape == (VOCABULARY_SIZE, 3)
    texts = [*captions[:50], "a zebra on the beach"]
    ours, clips = vocabulary.ids(texts), padded(host_tokenizer, texts)
    assert torch.equal(functional.embedding(clips, spread), functional.embedding(ours, table))
    others = torch.ones(VOCABULARY_SIZE, dtype=torch.bool)
    others[list(vocabulary.tokens)] = False
    assert others.sum() == VOCABULARY_SIZE - len(vocabulary.tokens)
    assert (spread[others] == table[0]).all()


def test_the_written_tokenizer_is_that_of_the_host(
    written: CLIPTokenizer, host_tokenizer: CLIPTokenizer, captions: list[str]
):
    assert written.get_vocab() == host_tokenizer.get_vocab()
    texts = [*captions, *UNUSUAL]
    assert torch.equal(padded(written, texts), padded(host_tokenizer, texts))
    assert (written.bos_token_id, written.eos_token_id, written.pad_token_id) == (START, END, END)
    assert written.model_max_length == 77


def test_the_written_tokenizer_is_that_of_open_clip(written: CLIPTokenizer, captions: list[str]):
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    for caption in [*captions[:200], "A PHOTO of Someone", "it's the person's t-shirt, they'll wave", "a café"]:
        assert list(clip_ids(caption)) == tokenizer.encode(caption), caption
    # It pads with 0, Stable Diffusion with the end.
    (ids,) = tokenizer([captions[0]])
    length = len(clip_ids(captions[0])) + 2
    assert torch.equal(ids[:length], padded(written, [captions[0]])[0][:length])
