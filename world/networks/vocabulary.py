"""Words of the world's captions, as CLIP's tokenizer splits them.

A table of embeddings for all of CLIP's 49,408 tokens would be larger than everything else together. So the networks
learn, and their files hold, one row for every token that captions use, and one for all others.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import CLIPTokenizer

from ...training.files import write_text

VOCABULARY_SIZE = 49408
LENGTH = 77
START, END = 49406, 49407


@functools.lru_cache(maxsize=1)
def _clip_tokens() -> tuple[dict[str, int], list[str]]:
    """CLIP's tokens with their numbers, and its merges; open_clip brings them."""
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    merges = [" ".join(pair) for pair, _ in sorted(tokenizer.bpe_ranks.items(), key=lambda item: item[1])]
    names = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    return {names.get(token, token): number for token, number in tokenizer.encoder.items()}, merges


def write_tokenizer(folder: Path) -> None:
    """CLIP's tokenizer in transformers' format."""
    tokens, merges = _clip_tokens()
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "vocab.json", json.dumps(tokens, ensure_ascii=False))
    write_text(folder / "merges.txt", "\n".join(("#version: 0.2", *merges)) + "\n")
    config = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": LENGTH,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "do_lower_case": True,
    }
    write_text(folder / "tokenizer_config.json", json.dumps(config, indent=1))


class Vocabulary:
    """The tokens of some texts, numbered anew: 0 stands for all others.

    Args:
        tokens: CLIP's numbers of those in use, in ascending order.
    """

    def __init__(self, tokens: Sequence[int]):
        self.tokens = tuple(tokens)
        self._places = torch.zeros(VOCABULARY_SIZE, dtype=torch.long)
        self._places[torch.tensor(self.tokens)] = torch.arange(1, len(self.tokens) + 1)

    @classmethod
    def of(cls, texts: Sequence[str]) -> Vocabulary:
        """All that occur in some texts, and the two that stand around every text."""
        return cls(sorted({START, END, *(number for text in dict.fromkeys(texts) for number in clip_ids(text))}))

    def __len__(self) -> int:
        return len(self.tokens) + 1

    def ids(self, texts: Sequence[str]) -> torch.Tensor:
        """[n, 77] new numbers: start, text, and the end to the last place, as Stable Diffusion pads."""
        rows = [[START, *clip_ids(text)] for text in texts]
        return self._places[torch.tensor([[*row, *[END] * (LENGTH - len(row))] for row in rows])]

    def spread(self, table: torch.Tensor) -> torch.Tensor:
        """[49408, d] embeddings by CLIP's numbers, of [len(self), d]."""
        return table[self._places]


@functools.lru_cache(maxsize=200_000)
def clip_ids(text: str) -> tuple[int, ...]:
    """CLIP's numbers of a text's tokens, without start and end; of the first that a text encoder has room for."""
    return tuple(_tokenizer()(text, add_special_tokens=False, truncation=True, max_length=LENGTH - 2).input_ids)


@functools.lru_cache(maxsize=1)
def _tokenizer() -> CLIPTokenizer:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        return CLIPTokenizer.from_pretrained(folder)
