"""A tiny BLIP with random weights, as transformers saves it."""

from __future__ import annotations

from pathlib import Path

import torch

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", "[ENC]"]
WORDS = ["a", "man", "woman", "on", "bench", "in", "red", "coat"]


def write_blip(folder: Path) -> Path:
    """Write model, tokenizer and image processor into a folder; the words of its captions are nonsense."""
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(SPECIAL + WORDS))
    tokenizer = BertTokenizerFast(str(vocabulary), additional_special_tokens=SPECIAL[-2:])
    vocabulary.unlink()
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    tokens = {
        "vocab_size": len(SPECIAL + WORDS),
        "bos_token_id": SPECIAL.index("[DEC]"),
        "sep_token_id": SPECIAL.index("[SEP]"),
        "eos_token_id": SPECIAL.index("[SEP]"),
        "pad_token_id": SPECIAL.index("[PAD]"),
    }
    config = BlipConfig(
        text_config={**sizes, **tokens, "encoder_hidden_size": 32},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = BlipForConditionalGeneration(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    model.text_decoder.cls.predictions.bias.data[: len(SPECIAL)] = -20.0
    model.save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder
