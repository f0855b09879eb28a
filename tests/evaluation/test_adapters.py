"""Adapters of methods: what cannot be drawn with is refused, and one of them is in memory at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from bolid.evaluation.adapters import Adapters
from bolid.models.adapter import AdapterLayout
from bolid.models.adapter_file import write_adapter
from bolid.models.build import build_adapter

from ..support.adapter_files import adapter_state_dict, write_safetensors
from .conftest import Toy, write_toy_adapter

CPU = torch.device("cpu")


def adapters(toy: Toy, method: dict[str, Any], **base: Any) -> Adapters:
    settings = toy.settings(toy.folder / "out", {"m": method, "base": {}}, base=base)
    return Adapters(settings)


@pytest.fixture
def bare(toy: Toy, tmp_path: Path) -> Path:
    """An adapter without aggregator and body branch."""
    layout = AdapterLayout(kind="base", cross_attention_dim=32, num_tokens=4, image_embed_dim=64, layers={1: 32})
    write_adapter(tmp_path / "bare.safetensors", build_adapter(layout), base_model="custom", image_encoder="toy")
    return tmp_path / "bare.safetensors"


def test_facts_without_keeping_weights(toy: Toy, tmp_path: Path) -> None:
    training = {"settings": {"loss.clip_model": "abc"}}
    path = write_toy_adapter(tmp_path / "told.safetensors", toy.base, toy.image_encoder, seed=5, training=training)
    found = adapters(toy, {"adapters": [str(path), str(toy.adapters[0])], "references": [2]})
    assert found.facts[path].trained_with == {"loss.clip_model": "abc"}
    assert found.facts[toy.adapters[0]].trained_with == {}
    assert found.facts[path].sha256 != found.facts[toy.adapters[0]].sha256
    assert found.feature_names == {"image_embeds"} and found.has_body("m") and not found.has_body("base")
    assert found._loaded is None


def test_one_is_in_memory_until_another_is_asked_for(toy: Toy) -> None:
    found = adapters(toy, {"adapters": [str(path) for path in toy.adapters], "references": [2]})
    first = found.get("m", 0, device=CPU)
    assert found.get("m", 0, device=CPU) is first and found.get("base", 0, device=CPU) is None
    second = found.get("m", 1, device=CPU)
    assert found._loaded[1] is second
    weights = [adapter.ip_adapter["1"].to_k_ip.weight for adapter in (first, second)]
    assert not torch.equal(*weights)
    assert not any(parameter.requires_grad for parameter in second.parameters()) and not second.training


def test_a_body_branch_that_is_left_out_is_none(toy: Toy) -> None:
    assert not adapters(toy, {"adapter": str(toy.adapters[0]), "body_weight": 0.0}).has_body("m")


def test_what_cannot_be_drawn_with(toy: Toy, bare: Path, tmp_path: Path) -> None:
    tensors = adapter_state_dict("faceid", layers=[(1, 32)], cross_attention_dim=32, lora_rank=4)
    lora = write_safetensors(tmp_path / "faceid_lora.safetensors", tensors)
    faceid = AdapterLayout(
        kind="faceid", cross_attention_dim=32, num_tokens=4, face_embed_dim=512, inner_dim=64, layers={1: 32}
    )
    reads_faces = tmp_path / "faceid.safetensors"
    write_adapter(reads_faces, build_adapter(faceid), base_model="custom", image_encoder="toy")
    for method, message in (
        (
            {"adapter": "nowhere.safetensors"},
            "methods.m has the adapter nowhere.safetensors, but there is no",
        ),
        ({"adapter": str(lora)}, "methods.m has the adapter faceid_lora.safetensors, a FaceID adapter with a LoRA"),
        ({"adapter": str(bare), "aggregation": "self_attention"}, "but bare.safetensors carries no aggregator"),
        ({"adapter": str(bare), "target_pose": True}, "target_pose is true, but bare.safetensors has no body branch"),
        ({"adapter": str(bare), "other_body": True}, "other_body is true, but bare.safetensors has no body branch"),
        ({"adapter": str(reads_faces)}, "faceid.safetensors, which reads ArcFace vectors: set base.face_pack"),
    ):
        with pytest.raises(ValueError, match=message):
            adapters(toy, method)
    assert adapters(toy, {"adapter": str(reads_faces)}, face_pack="pack").feature_names == {"face_embeds"}
