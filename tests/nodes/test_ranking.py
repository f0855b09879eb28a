"""BoLIDRankImages: each score on pictures whose order is known, what comes out, and what is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import comfy.model_management
import comfy.sd
import comfy.sd1_clip
import comfy.sdxl_clip
import comfy.supported_models_base
import comfy.utils
import folder_paths
import numpy as np
import pytest
import torch
from comfy.clip_vision import ClipVisionModel
from comfyui_client import ExecutionError, PromptError
from safetensors.torch import save_file
from torch import nn

from bolid.detectors.crops import to_uint8
from bolid.models.body import Body
from bolid.models.keypoints import JOINTS
from bolid.models.references import References
from bolid.nodes.encoding import MultiRefImageEncoder
from bolid.nodes.model_folders import register_model_folders
from bolid.nodes.ranking import BoLIDRankImages

from ..support.bodies import sitting, standing, upper_body
from ..support.small_models import small_clip_vision
from .test_body import frame, small, without

SIZE = 32
WIDTH, HEIGHT = 96, 128
TEXT_WIDTH = 64
TEXT_CONFIG = {"hidden_size": TEXT_WIDTH, "num_attention_heads": 4, "num_hidden_layers": 2, "intermediate_size": 128}


@pytest.fixture(scope="module")
def clip_vision():
    return small_clip_vision(image_size=SIZE)


@pytest.fixture(scope="module")
def photos(photographs) -> dict[str, torch.Tensor]:
    """[1, H, W, 3] each; `wall` is a part of a photograph without people, `night` holds nothing at all."""
    pictures = photographs | {
        "wall": photographs["bus"].crop((400, 0, 810, 400)),
        "walker": photographs["bus"].crop((10, 380, 290, 940)),
    }
    tensors = {name: torch.from_numpy(np.asarray(image, np.float32) / 255)[None] for name, image in pictures.items()}
    return tensors | {"night": torch.zeros(1, 60, 80, 3)}


@pytest.fixture
def aesthetic_folder(tmp_path, monkeypatch):
    folder = tmp_path / "models" / "aesthetic"
    folder.mkdir(parents=True)
    monkeypatch.setattr(folder_paths, "models_dir", str(folder.parent))
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", dict(folder_paths.folder_names_and_paths))
    folder_paths.folder_names_and_paths.pop("aesthetic", None)
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    register_model_folders()
    return folder


def run_node(images, by, *, keep=0, **inputs):
    """As ComfyUI calls a node with `is_input_list`: every input arrives as a list, an omitted one not at all."""
    given = {name: [value] for name, value in inputs.items() if value is not None}
    before = [batch.clone() for batch in images]
    with torch.inference_mode():  # as its executor runs nodes
        output = BoLIDRankImages.execute(images=images, by=[by], keep=[keep], **given)
    for batch, copy in zip(images, before, strict=True):
        assert torch.equal(batch.nan_to_num(), copy.nan_to_num())
    return output


def ranked(images, by, *, keep=0, **inputs):
    """The pictures [H, W, C] that come out and the report, which are held against each other and the input."""
    output = run_node(images, by, keep=keep, **inputs)
    batches, scores = output.result
    report = json.loads(scores)
    pictures = [picture for batch in images for picture in batch]
    out = [picture for batch in batches for picture in batch]
    kept = min(keep or len(pictures), len(pictures))
    assert report["by"] == by and report["kept"] == kept == len(out)
    assert sorted(report["order"]) == list(range(1, 1 + len(pictures)))
    assert all(
        torch.equal(picture.nan_to_num(), pictures[number - 1].nan_to_num())
        for picture, number in zip(out, report["order"], strict=False)
    )
    entries = report["pictures"]
    assert [entry["picture"] for entry in entries] == list(range(1, 1 + len(pictures)))
    assert [report["order"].index(entry["picture"]) + 1 for entry in entries] == [entry["rank"] for entry in entries]
    assert [entry["kept"] for entry in entries] == [entry["rank"] <= kept for entry in entries]
    in_order = [entries[number - 1]["score"] for number in report["order"]]
    found = [score for score in in_order if score is not None]
    assert found == sorted(found, reverse=True) and in_order == found + [None] * (len(in_order) - len(found))
    assert (report["scored"], report["failed"]) == (len(found), len(pictures) - len(found))
    for entry in entries:
        assert (entry["score"] is None) == bool(entry["reason"]) == (not entry["parts"])
        assert entry["score"] is None or entry["score"] == next(iter(entry["parts"].values()))
    assert len(output.ui.values) == len(pictures)
    return out, report


def values(report) -> list[float | None]:
    return [entry["score"] for entry in report["pictures"]]


def reference_photos(images, **inputs) -> References:
    given = {name: [value] for name, value in inputs.items()}
    return MultiRefImageEncoder.execute(images=images, on_missing=["skip"], **({"crop": ["whole"]} | given)).result[0]


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    one, other = one.detach(), other.detach()
    return float(one.double() @ other.double() / one.double().norm() / other.double().norm())


def coloured(*shades: float) -> torch.Tensor:
    """[n, 24, 24, 3], one even shade each."""
    return torch.tensor(shades).view(-1, 1, 1, 1).expand(-1, 24, 24, 3).clone()


# Identity


def test_identity_is_the_mean_cosine_with_all_references(photos, clip_vision):
    known = [photos["carphone_0"], photos["carphone_3"]]
    images = [photos[name] for name in ("bus", "carphone_1", "astronaut", "carphone_0")]
    references = reference_photos(known, clip_vision=clip_vision)
    _, report = ranked(images, "identity", references=references, clip_vision=clip_vision)
    embeds = [clip_vision.encode_image(photo)["image_embeds"][0].float() for photo in (*images, *known)]
    expected = [(cosine(embed, embeds[4]) + cosine(embed, embeds[5])) / 2 for embed in embeds[:4]]
    assert values(report) == pytest.approx(expected, abs=2e-5)
    assert report["order"] == sorted(range(1, 5), key=lambda number: -expected[number - 1])
    assert set(report["pictures"][0]["parts"]) == {"image_similarity"}


def test_the_reference_itself_comes_first(photos, clip_vision):
    references = reference_photos([photos["astronaut"]], clip_vision=clip_vision)
    images = [photos[name] for name in ("bus", "night", "astronaut")]
    (best,), report = ranked(images, "identity", keep=1, references=references, clip_vision=clip_vision)
    assert torch.equal(best, photos["astronaut"][0])
    assert report["pictures"][2]["score"] == pytest.approx(1, abs=1e-5)


def test_faces_are_compared_where_both_sides_have_them(photos, face_analysis):
    names = ["grace_hopper", "night", "astronaut", "bus"]
    references = reference_photos([photos["astronaut"], photos["tom_hanks"]], face_analysis=face_analysis)
    images = [photos[name] for name in names]
    _, report = ranked(images, "identity", references=references, face_analysis=face_analysis)
    vectors = [face_analysis.detect(to_uint8(photos[name][0])) for name in names]
    expected = [
        None if not faces else float(np.mean([references.face_embeds.numpy() @ faces[0].embedding]))
        for faces in vectors
    ]
    assert values(report)[1] is None and report["order"][-1] == 2
    assert report["pictures"][1]["reason"] == "no face found"
    assert [values(report)[index] for index in (0, 2, 3)] == pytest.approx([expected[i] for i in (0, 2, 3)], abs=1e-5)
    assert set(report["pictures"][0]["parts"]) == {"face_similarity"}


def test_references_without_a_face_do_not_count_among_faces(photos, clip_vision, face_analysis):
    references = MultiRefImageEncoder.execute(
        images=[photos["night"], photos["astronaut"]],
        crop=["whole"],
        on_missing=["whole"],
        clip_vision=[clip_vision],
        face_analysis=[face_analysis],
    ).result[0]
    assert references.has_face.tolist() == [False, True]
    _, report = ranked([photos["astronaut"]], "identity", references=references, face_analysis=face_analysis)
    assert values(report) == pytest.approx([1], abs=1e-5)


def test_faces_make_the_score_and_features_come_along(photos, clip_vision, face_analysis):
    both = {"clip_vision": clip_vision, "face_analysis": face_analysis}
    references = reference_photos([photos["astronaut"]], **both)
    images = [photos[name] for name in ("grace_hopper", "night", "astronaut")]
    _, report = ranked(images, "identity", references=references, **both)
    _, faces = ranked(images, "identity", references=references, face_analysis=face_analysis)
    _, features = ranked(images, "identity", references=references, clip_vision=clip_vision)
    assert values(report) == values(faces) and values(report)[1] is None
    for index in (0, 2):
        parts = report["pictures"][index]["parts"]
        assert list(parts) == ["face_similarity", "image_similarity"]
        assert parts["image_similarity"] == pytest.approx(values(features)[index], abs=2e-5)


@pytest.mark.parametrize("crop", ["face", "person"])
def test_crops_are_those_of_the_encoder(crop, photos, clip_vision):
    references = reference_photos([photos["astronaut"]], clip_vision=clip_vision, crop=crop)
    images = [photos["wall"], photos["grace_hopper"], photos["astronaut"]]
    _, report = ranked(images, "identity", references=references, clip_vision=clip_vision, crop=crop)
    assert report["order"] == [3, 2, 1] and report["pictures"][0]["reason"] == f"no {crop} found"
    hopper = reference_photos([photos["grace_hopper"]], clip_vision=clip_vision, crop=crop)
    assert values(report)[1:] == pytest.approx(
        [cosine(hopper.image_embeds[0], references.image_embeds[0]), 1], abs=2e-5
    )


def test_references_of_another_making_are_refused(photos, clip_vision, face_analysis):
    images = [photos["astronaut"]]
    features = reference_photos(images, clip_vision=clip_vision)
    faces = reference_photos(images, face_analysis=face_analysis)
    with pytest.raises(ValueError, match="needs 'references'"):
        ranked(images, "identity", clip_vision=clip_vision)
    with pytest.raises(ValueError, match="connect the same 'Load CLIP Vision' to clip_vision, or the same BoLIDFace"):
        ranked(images, "identity", references=features)
    with pytest.raises(ValueError, match="The references have no face vectors"):
        ranked(images, "identity", references=features, face_analysis=face_analysis)
    with pytest.raises(ValueError, match="The references have no image features"):
        ranked(images, "identity", references=faces, clip_vision=clip_vision)
    other = small_clip_vision(image_size=SIZE, projection_dim=40)
    with pytest.raises(ValueError, match="image features of width 48, but clip_vision gives 40"):
        ranked(images, "identity", references=features, clip_vision=other)


def test_insightface_of_another_pack_ranks_like_ours(photos, face_analysis):
    images = [photos[name] for name in ("bus", "astronaut", "night")]
    references = reference_photos([photos["astronaut"]], face_analysis=face_analysis)
    _, ours = ranked(images, "identity", references=references, face_analysis=face_analysis)
    _, theirs = ranked(images, "identity", references=references, face_analysis=face_analysis._analysis)
    assert theirs == ours and ours["order"][0] == 2
    assert [entry["reason"] for entry in ours["pictures"]] == ["", "", "no face found"]


# Text


@pytest.fixture(scope="module")
def clip_model():
    """transformers' CLIP with random weights that half precision can hold, as ComfyUI keeps them."""
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(3)
    vision = {"image_size": SIZE, "patch_size": 8, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPConfig(
        text_config=TEXT_CONFIG | {"eos_token_id": 49407, "bos_token_id": 49406},
        vision_config=vision | {"intermediate_size": 96},
        projection_dim=TEXT_WIDTH,
    )
    model = CLIPModel(config).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:
            nn.init.normal_(parameter, std=0.5 if "embedding" in name else parameter[0].numel() ** -0.5)
        parameter.copy_(parameter.half().float())
    return model


def load_text_encoder(path):
    """By ComfyUI's own loader, as 'Load CLIP' calls it, in a narrow shape."""
    return comfy.sd.load_clip([str(path)], model_options={"model_config": dict(TEXT_CONFIG)})


@pytest.fixture(scope="module")
def clip_files(clip_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("clip")
    tensors = {name: tensor.half().contiguous() for name, tensor in clip_model.state_dict().items()}
    save_file(tensors, folder / "whole.safetensors")
    without_projection = {name: tensor for name, tensor in tensors.items() if name != "text_projection.weight"}
    save_file(without_projection, folder / "sd15.safetensors")
    torch.save(tensors, folder / "whole.bin")
    return folder


@pytest.fixture(scope="module")
def joint(clip_model, clip_files):
    """The same weights as ComfyUI's CLIP and CLIP_VISION."""
    vision = ClipVisionModel(
        {
            "model_type": "clip_vision_model",
            "hidden_act": "quick_gelu",
            "image_size": SIZE,
            "patch_size": 8,
            "num_channels": 3,
            "hidden_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "intermediate_size": 96,
            "projection_dim": TEXT_WIDTH,
        }
    )
    missing, _ = vision.load_sd({name: tensor.half() for name, tensor in clip_model.state_dict().items()})
    assert not missing
    return {"clip": load_text_encoder(clip_files / "whole.safetensors"), "clip_vision": vision}


@torch.no_grad()
def transformers_scores(model, pictures: torch.Tensor, prompt: str) -> list[float]:
    """Of pictures [n, 32, 32, 3] whose values are whole 255ths."""
    from transformers import CLIPTokenizer

    tokenizer = CLIPTokenizer.from_pretrained(Path(comfy.sd1_clip.__file__).parent / "sd1_tokenizer")
    tokens = tokenizer([prompt], padding="max_length", max_length=77, truncation=True, return_tensors="pt")
    mean, deviation = (
        torch.tensor(values).view(3, 1, 1)
        for values in ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    )
    pixel_values = (pictures.movedim(-1, 1) - mean) / deviation
    output = model(pixel_values=pixel_values, **tokens)
    return (output.logits_per_image[:, 0] / model.logit_scale.exp()).tolist()


PROMPTS = [
    "a red square",
    "a photo of a woman in a blue coat, walking through Paris at night",
    " ".join(["many different words about one picture"] * 20),
]


@pytest.fixture
def noise() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (6, SIZE, SIZE, 3), generator=generator) / 255


@pytest.mark.parametrize("prompt", PROMPTS, ids=["short", "long", "too long"])
def test_text_is_the_clip_score_of_transformers(prompt, noise, joint, clip_model):
    _, report = ranked([noise], "text", prompt=prompt, **joint)
    expected = transformers_scores(clip_model, noise, prompt)
    assert max(expected) - min(expected) > 0.01
    assert values(report) == pytest.approx(expected, abs=1e-4)
    assert report["order"] == sorted(range(1, 7), key=lambda number: -expected[number - 1])
    assert bool(report["notes"]) == (prompt == PROMPTS[2])


def test_weights_in_the_prompt_do_not_count(noise, joint):
    _, plain = ranked([noise], "text", prompt="a blue coat", **joint)
    _, weighted = ranked([noise], "text", prompt="a (blue:1.4) coat", **joint)
    assert values(plain) == values(weighted)


def test_clip_skip_changes_nothing_and_stays_for_the_sampler(noise, joint):
    skipping = joint["clip"].clone()
    skipping.clip_layer(-2)
    tokens = skipping.tokenize("a red square")
    conditioning = [clip.encode_from_tokens(tokens) for clip in (joint["clip"], skipping)]
    _, plain = ranked([noise], "text", prompt="a red square", **joint)
    _, skipped = ranked([noise], "text", prompt="a red square", **(joint | {"clip": skipping}))
    assert values(plain) == values(skipped)
    after = [clip.encode_from_tokens(tokens) for clip in (joint["clip"], skipping)]
    assert not torch.equal(*conditioning)
    assert all(torch.equal(*pair) for pair in zip(conditioning, after, strict=True))


def sdxl_text_encoder(seed: int) -> comfy.sd.CLIP:
    """ComfyUI's SDXL text encoders, narrow ones: of width 32 (l) and 64 (g)."""
    narrow = {"num_attention_heads": 4, "num_hidden_layers": 3, "intermediate_size": 64}
    options = {
        "clip_l_model_config": narrow | {"hidden_size": 32},
        "clip_g_model_config": narrow | {"hidden_size": TEXT_WIDTH},
    }
    target = comfy.supported_models_base.ClipTarget(comfy.sdxl_clip.SDXLTokenizer, comfy.sdxl_clip.SDXLClipModel)
    clip = comfy.sd.CLIP(target, model_options=options)
    torch.manual_seed(seed)
    for parameter in clip.cond_stage_model.parameters():
        nn.init.normal_(parameter, std=0.1)
    return clip


def test_of_several_text_encoders_the_fitting_one_counts(noise, joint):
    clip = sdxl_text_encoder(0)
    _, report = ranked([noise], "text", prompt="a red square", clip=clip, clip_vision=joint["clip_vision"])
    # SDXL's pooled output is the projected one of the large encoder.
    _, pooled = clip.encode_from_tokens(clip.tokenize("a red square"), return_pooled=True)
    embeds = joint["clip_vision"].encode_image(noise)["image_embeds"].float()
    assert values(report) == pytest.approx([cosine(embed, pooled[0].float()) for embed in embeds], abs=1e-5)


@pytest.mark.parametrize("garbage", [0.0, 0.02, torch.nan])
def test_a_text_encoder_without_projection_is_refused(garbage, noise, joint, clip_files):
    clip = load_text_encoder(clip_files / "sd15.safetensors")
    # What a missing weight holds is left to chance; nothing of it may be taken for a projection.
    clip.cond_stage_model.clip_l.transformer.text_projection.weight.data.fill_(garbage)
    with pytest.raises(ValueError, match=r"no text projection.*text_projection\.weight"):
        ranked([noise], "text", prompt="a red square", clip=clip, clip_vision=joint["clip_vision"])


CHECKPOINT_TENSORS = {
    "SDXL, its large encoder": ("conditioner.embedders.1.model.text_projection", TEXT_WIDTH, True),
    "SD3": ("text_encoders.clip_l.transformer.text_projection.weight", TEXT_WIDTH, True),
    "SDXL, its small encoder": ("conditioner.embedders.1.model.text_projection", 2 * TEXT_WIDTH, False),
    "SD1.5": ("cond_stage_model.transformer.text_model.final_layer_norm.weight", TEXT_WIDTH, False),
}


@pytest.mark.parametrize("kind", CHECKPOINT_TENSORS)
def test_in_checkpoints_the_projection_is_looked_for(kind, noise, joint, tmp_path):
    name, width, expected = CHECKPOINT_TENSORS[kind]
    save_file({name: torch.zeros(width, width)}, tmp_path / "checkpoint.safetensors")
    clip = joint["clip"].clone()
    # As `load_checkpoint_guess_config` notes where a text encoder comes from.
    clip.patcher.cached_patcher_init = (
        comfy.sd.load_checkpoint_clip_patcher,
        (str(tmp_path / "checkpoint.safetensors"),),
    )
    given = {"prompt": "a red square", "clip": clip, "clip_vision": joint["clip_vision"]}
    if expected:
        assert ranked([noise], "text", **given)[1]["scored"] == len(noise)
    else:
        with pytest.raises(ValueError, match="no text projection"):
            ranked([noise], "text", **given)


@pytest.mark.parametrize("garbage", [0.0, 1e30, torch.nan])
def test_without_a_readable_file_the_weights_tell(garbage, noise, joint, clip_files):
    clip = load_text_encoder(clip_files / "whole.bin")
    _, report = ranked([noise], "text", prompt="a red square", clip=clip, clip_vision=joint["clip_vision"])
    _, expected = ranked([noise], "text", prompt="a red square", **joint)
    assert values(report) == values(expected)
    projection = clip.cond_stage_model.clip_l.transformer.text_projection
    projection.weight = nn.Parameter(torch.full((TEXT_WIDTH, TEXT_WIDTH), garbage), requires_grad=False)
    with pytest.raises(ValueError, match="no text projection"):
        ranked([noise], "text", prompt="a red square", clip=clip, clip_vision=joint["clip_vision"])


def test_text_encoders_of_other_models_are_refused(noise, joint, clip_vision):
    with pytest.raises(ValueError, match="width 64, but clip_vision gives image features of width 48"):
        ranked([noise], "text", prompt="a red square", clip=joint["clip"], clip_vision=clip_vision)
    with pytest.raises(ValueError, match="width 32 and 64, but .* of width 48"):
        ranked([noise], "text", prompt="a red square", clip=sdxl_text_encoder(0), clip_vision=clip_vision)

    class LanguageModel:
        cond_stage_model = nn.ModuleDict({"t5xxl": nn.Linear(2, 2)})

    with pytest.raises(ValueError, match="no CLIP text encoder"):
        ranked([noise], "text", prompt="a red square", clip=LanguageModel(), clip_vision=joint["clip_vision"])


@pytest.mark.parametrize("missing", ["prompt", "clip", "clip_vision"])
def test_text_names_what_is_missing(missing, noise, joint):
    given = {"prompt": "a red square", **joint} | {missing: "  " if missing == "prompt" else None}
    with pytest.raises(ValueError, match=f"Ranking by text needs '{missing}'"):
        ranked([noise], "text", **given)


# Pose


def moved(joints: torch.Tensor, x: float, y: float = 0.0) -> torch.Tensor:
    return small(joints, scale=1.0, x=x, y=y)


def torso(joints: torch.Tensor) -> float:
    """In pixels."""
    points = joints[:, :2] * torch.tensor([WIDTH, HEIGHT])
    return float((points[:2].mean(dim=0) - points[6:8].mean(dim=0)).norm())


def blank(count: int, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    return torch.zeros(count, height, width, 3)


def test_poses_nearer_to_the_target_come_first():
    target = small(standing(), scale=0.8, x=0.1, y=0.1)
    step = 0.1 * torso(target) / WIDTH
    frames = [frame(moved(target, 3 * step)), frame(target), frame(), frame(moved(target, step))]
    _, report = ranked([blank(4)], "pose", target_pose=[frame(target)], pose_keypoint=frames)
    assert report["order"] == [2, 4, 1, 3]
    assert report["pictures"][2]["reason"] == "no person found"
    parts = [entry["parts"] for entry in report["pictures"]]
    assert parts[1] == {"oks": 1, "pck": 1, "joints_found": 1}
    # A tenth of the torso is within PCK@0.2, three tenths are not.
    assert (parts[3]["pck"], parts[0]["pck"]) == (1, 0)
    assert 1 > parts[3]["oks"] > parts[0]["oks"] > 0
    # COCO's formula: all joints are the same distance off, so the area is that of any one of them.
    sigmas = np.repeat([0.079, 0.072, 0.062, 0.107, 0.087, 0.089], 2)
    area = float(np.prod(np.ptp(target[:, :2].numpy() * (WIDTH, HEIGHT), axis=0)))
    for index, distance in ((3, step * WIDTH), (0, 3 * step * WIDTH)):
        bound = np.exp(-(distance**2) / (2 * area * (2 * sigmas) ** 2)).mean()
        # A person with a head covers about half of a box that is larger than that of the joints.
        assert bound * 0.6 < parts[index]["oks"] < bound * 1.3


def test_joints_that_are_missing_count_as_wrong():
    target = standing()
    frames = [frame(without(target, "left_wrist", "right_wrist", "left_ankle")), frame(target)]
    _, report = ranked([blank(2)], "pose", target_pose=[frame(target)], pose_keypoint=frames)
    assert report["order"] == [2, 1]
    assert report["pictures"][0]["parts"] == {"oks": 0.75, "pck": 0.75, "joints_found": 0.75}


def test_min_visibility_says_which_joints_are_found():
    dim = standing()
    dim[:6, 2] = 0.3
    given = {"target_pose": [frame(standing())], "pose_keypoint": [frame(dim)]}
    _, strict = ranked([blank(1)], "pose", **given)
    _, lenient = ranked([blank(1)], "pose", min_visibility=0.2, **given)
    assert (values(strict), values(lenient)) == ([0.5], [1])
    dim[:, 2] = 0.3
    given["pose_keypoint"] = [frame(dim)]
    _, nobody = ranked([blank(1)], "pose", **given)
    assert nobody["pictures"][0]["reason"] == "no person found"


def test_of_several_people_the_nearest_counts():
    target = small(standing(), scale=0.4, x=0.5, y=0.5)
    frames = [frame(standing()), frame(standing(), target), frame(target, small(standing(), scale=0.3, x=0.1, y=0.1))]
    _, report = ranked([blank(3)], "pose", target_pose=[frame(target)], pose_keypoint=frames)
    assert report["order"] == [2, 3, 1] and values(report)[1:] == [1, 1]


def test_the_target_may_be_keypoints_a_single_frame_or_a_body():
    target = small(standing(), scale=0.8, x=0.1, y=0.1)
    frames = [frame(moved(target, 0.05)), frame(target)]
    body = Body(keypoints=standing()[None], image_sizes=torch.tensor([[8, 8]]), target_pose=target)
    reports = [
        ranked([blank(2)], "pose", target_pose=given, pose_keypoint=frames)[1]
        for given in ([frame(target)], [frame(target), frame(sitting())], frame(target), body)
    ]
    for report in reports:
        assert report["order"] == [2, 1]
        assert values(report) == pytest.approx(values(reports[0]), abs=1e-5)


def test_canvases_and_pictures_may_differ_in_size():
    target = small(standing(), scale=0.8, x=0.1, y=0.1)
    frames = [frame(moved(target, 0.05), width=3 * WIDTH, height=3 * HEIGHT), frame(target, width=50, height=60)]
    images = [blank(1), blank(1, 2 * HEIGHT, 2 * WIDTH)]
    _, report = ranked(images, "pose", target_pose=[frame(target, width=640, height=480)], pose_keypoint=frames)
    _, same = ranked([blank(2)], "pose", target_pose=[frame(target)], pose_keypoint=[frame(moved(target, 0.05))] * 2)
    assert report["order"] == [2, 1] and values(report)[1] == pytest.approx(1, abs=1e-5)
    assert values(report)[0] == pytest.approx(values(same)[0], abs=1e-4)


def test_half_a_person_can_be_the_target():
    _, report = ranked(
        [blank(2)], "pose", target_pose=[frame(upper_body())], pose_keypoint=[frame(standing()), frame(upper_body())]
    )
    assert report["order"] == [2, 1] and values(report)[1] == 1


def test_people_are_found_in_the_pictures_and_in_the_target(photos):
    walker = photos["walker"]
    images = [photos["wall"], photos["astronaut"], walker.flip(2), walker]
    _, report = ranked(images, "pose", target_pose=walker)
    assert report["order"][0] == 4 and report["order"][-1] == 1
    assert values(report)[0] is None and values(report)[3] == pytest.approx(1, abs=1e-5)
    assert values(report)[2] < 0.9


A_POINT = small(standing(), scale=0.0, x=0.5, y=0.5)
LONELY_JOINTS = without(standing(), *(joint for joint in JOINTS if joint not in ("left_wrist", "right_knee")))


@pytest.mark.parametrize(
    "target",
    [[], [frame()], blank(0), [frame(A_POINT)], [frame(LONELY_JOINTS)]],
    ids=["no frame", "nobody", "no picture", "a point", "joints without a bone"],
)
def test_a_target_without_a_pose_is_refused(target):
    with pytest.raises(ValueError, match="target_pose shows no person with two neighbouring joints"):
        ranked([blank(1)], "pose", target_pose=target, pose_keypoint=[frame(standing())])


def test_what_else_pose_refuses(photos):
    images, target = [blank(2)], [frame(standing())]
    with pytest.raises(ValueError, match="Ranking by pose needs 'target_pose'"):
        ranked(images, "pose")
    with pytest.raises(ValueError, match="1 frames for 2 pictures"):
        ranked(images, "pose", target_pose=target, pose_keypoint=[frame(standing())])
    body = Body(keypoints=standing()[None], image_sizes=torch.tensor([[8, 8]]))
    with pytest.raises(ValueError, match="The body at target_pose has no target pose"):
        ranked(images, "pose", target_pose=body, pose_keypoint=[frame(standing())] * 2)
    with pytest.raises(FileNotFoundError, match=r"pose_landmarker_lite\.task"):
        ranked(images, "pose", target_pose=target, pose_model="pose_landmarker_lite.task")


# Aesthetic


class Laion(nn.Module):
    """christophschuhmann/improved-aesthetic-predictor, narrow."""

    def __init__(self, width: int, *, relu: bool):
        super().__init__()
        between = [nn.ReLU()] if relu else []
        self.layers = nn.Sequential(
            nn.Linear(width, 24), *between, nn.Dropout(0.2),
            nn.Linear(24, 16), *between, nn.Dropout(0.2),
            nn.Linear(16, 8), *between, nn.Dropout(0.1),
            nn.Linear(8, 4), *between,
            nn.Linear(4, 1),
        )  # fmt: skip

    def forward(self, embeds: torch.Tensor) -> torch.Tensor:
        return self.layers(embeds / embeds.norm(dim=-1, keepdim=True))[:, 0]


class Line(nn.Linear):
    def forward(self, embeds: torch.Tensor) -> torch.Tensor:
        return super().forward(embeds / embeds.norm(dim=-1, keepdim=True))[:, 0]


HEADS = {
    "laion": lambda: Laion(48, relu=False),
    "laion with ReLU": lambda: Laion(48, relu=True),
    "linear": lambda: Line(48, 1),
}


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
@pytest.mark.parametrize("kind", HEADS)
@torch.no_grad()
def test_aesthetic_is_the_score_of_the_head(kind, ending, noise, clip_vision, aesthetic_folder):
    torch.manual_seed(1)
    head = HEADS[kind]().eval()
    name = f"scorer{ending}"
    if ending == ".pth":
        torch.save(head.state_dict(), aesthetic_folder / name)
    else:
        save_file(head.state_dict(), aesthetic_folder / name)
    _, report = ranked([noise], "aesthetic", clip_vision=clip_vision, aesthetic_model=name)
    expected = head(clip_vision.encode_image(noise)["image_embeds"].float()).tolist()
    assert values(report) == pytest.approx(expected, abs=1e-5)
    assert report["order"] == sorted(range(1, 7), key=lambda number: -expected[number - 1])
    (combo,) = [given for given in BoLIDRankImages.define_schema().inputs if given.id == "aesthetic_model"]
    assert combo.options == [name]


def test_no_aesthetic_model_says_where_to_put_one(noise, clip_vision, aesthetic_folder):
    with pytest.raises(
        FileNotFoundError, match=r"No aesthetic model is chosen.*aesthetic.*The folder holds none yet"
    ) as error:
        ranked([noise], "aesthetic", clip_vision=clip_vision)
    assert str(aesthetic_folder) in str(error.value)
    save_file(Line(48, 1).state_dict(), aesthetic_folder / "here.safetensors")
    with pytest.raises(FileNotFoundError, match=r"'there.pth' was not found.*Available are: here\.safetensors"):
        ranked([noise], "aesthetic", clip_vision=clip_vision, aesthetic_model="there.pth")
    with pytest.raises(FileNotFoundError, match="was not found"):
        ranked([noise], "aesthetic", clip_vision=clip_vision, aesthetic_model="../aesthetic/here.safetensors")
    with pytest.raises(ValueError, match="Ranking by aesthetic needs 'clip_vision'"):
        ranked([noise], "aesthetic", aesthetic_model="here.safetensors")


DAMAGED = {
    "another network": {"conv.weight": torch.zeros(4, 3, 3, 3), "conv.bias": torch.zeros(4)},
    "two values": Line(48, 2).state_dict(),
    "no bias": {"weight": torch.zeros(1, 48)},
    "nothing": {},
    "other numbers": {f"layers.{number}.{name}": torch.zeros(1, 1) if name == "weight" else torch.zeros(1)
                      for number in (0, 1, 2) for name in ("weight", "bias")},
    "a layer that does not fit": Laion(48, relu=False).state_dict() | {"layers.2.weight": torch.zeros(16, 23)},
    "more than a head": Laion(48, relu=False).state_dict() | {"visual.proj": torch.zeros(2, 2)},
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGED)
def test_other_files_are_no_aesthetic_models(kind, noise, clip_vision, aesthetic_folder):
    save_file(DAMAGED[kind], aesthetic_folder / "file.safetensors")
    with pytest.raises(ValueError, match=r"file\.safetensors is no aesthetic model that BoLID knows \(tensors "):
        ranked([noise], "aesthetic", clip_vision=clip_vision, aesthetic_model="file.safetensors")


def test_a_head_of_another_encoder_and_a_damaged_one(noise, clip_vision, aesthetic_folder):
    save_file(Line(768, 1).state_dict(), aesthetic_folder / "wide.safetensors")
    with pytest.raises(ValueError, match=r"wide\.safetensors reads image features of width 768, but .* gives 48"):
        ranked([noise], "aesthetic", clip_vision=clip_vision, aesthetic_model="wide.safetensors")
    save_file({"weight": torch.full((1, 48), torch.nan), "bias": torch.zeros(1)}, aesthetic_folder / "nan.safetensors")
    _, report = ranked([noise], "aesthetic", clip_vision=clip_vision, aesthetic_model="nan.safetensors")
    assert report["failed"] == 6 and report["pictures"][0]["reason"].startswith("its score is no number")


# What comes out


@pytest.fixture
def by_brightness(clip_vision, aesthetic_folder, monkeypatch):
    """Inputs by which brighter pictures score higher, through the real node and head."""
    save_file({"weight": torch.ones(1, 48) / 48, "bias": torch.zeros(1)}, aesthetic_folder / "mean.safetensors")

    def encode_image(pixels):
        brightness = pixels.mean(dim=(1, 2, 3)) - 0.5
        embeds = torch.stack((brightness, (1 - brightness.square()).sqrt() * 0), dim=-1).repeat(1, 24)
        embeds[:, 1::2] = (1 - brightness.square()).sqrt().unsqueeze(-1) * torch.tensor([1.0, -1.0]).repeat(12)
        return {"image_embeds": embeds, "penultimate_hidden_states": torch.zeros(len(pixels), 1, 1)}

    monkeypatch.setattr(clip_vision, "encode_image", encode_image)
    return {"by": "aesthetic", "clip_vision": clip_vision, "aesthetic_model": "mean.safetensors"}


@pytest.mark.parametrize(
    ("keep", "expected"), [(0, [3, 1, 4, 2]), (1, [3]), (2, [3, 1]), (4, [3, 1, 4, 2]), (99, [3, 1, 4, 2])]
)
def test_the_best_come_out_in_order(keep, expected, by_brightness):
    images = coloured(0.6, 0.1, 0.9, 0.3)
    out, report = ranked([images], keep=keep, **by_brightness)
    assert report["order"][: len(expected)] == expected and len(out) == len(expected)
    assert [float(picture[0, 0, 0]) for picture in out] == [float(images[number - 1, 0, 0, 0]) for number in expected]


def test_equal_scores_keep_their_order(by_brightness):
    _, report = ranked([coloured(*[0.4, 0.8] * 20)], **by_brightness)
    assert report["order"] == [*range(2, 41, 2), *range(1, 41, 2)]


def test_equal_pictures_in_other_batches_of_the_encoder_keep_their_order(noise, clip_vision):
    references = reference_photos([noise[:2]], clip_vision=clip_vision)
    images = noise[:1].repeat(21, 1, 1, 1)
    _, report = ranked([images], "identity", references=references, clip_vision=clip_vision)
    assert report["order"] == list(range(1, 22))


def test_pictures_of_one_size_come_as_one_batch_others_as_a_list(by_brightness):
    (batch,), _ = run_node([coloured(0.2, 0.9), coloured(0.5)], **by_brightness).result
    assert batch.shape == (3, 24, 24, 3)
    sizes = [coloured(0.2)[:, :10], coloured(0.9), coloured(0.5)[..., :1]]
    listed, _ = run_node(sizes, **by_brightness).result
    assert [tuple(picture.shape) for picture in listed] == [(1, 24, 24, 3), (1, 24, 24, 1), (1, 10, 24, 3)]
    (best,), _ = run_node(sizes, keep=1, **by_brightness).result
    assert best.shape == (1, 24, 24, 3)


def test_transparency_comes_out_and_does_not_count(by_brightness):
    plain = coloured(0.3, 0.7)
    transparent = torch.cat((plain, torch.tensor([1.0, 0.0]).view(2, 1, 1, 1).expand(-1, 24, 24, 1)), dim=-1)
    out, report = ranked([transparent], **by_brightness)
    assert report["order"] == [2, 1] and all(picture.shape == (24, 24, 4) for picture in out)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_pictures(dtype, noise, clip_vision):
    """ComfyUI's --fp16-intermediates."""
    references = reference_photos([noise[:2]], clip_vision=clip_vision)
    out, report = ranked([noise.to(dtype)], "identity", references=references, clip_vision=clip_vision)
    assert report["scored"] == 6 and out[0].dtype == dtype


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_pictures_that_are_no_numbers_come_last(value, by_brightness):
    images = coloured(0.2, 0.9, 0.5)
    images[1, 3, 4] = value
    _, report = ranked([images], **by_brightness)
    assert report["order"] == [3, 1, 2]
    assert report["pictures"][1]["reason"] == "it has values that are no numbers (NaN or infinite)"


def test_their_frames_go_with_the_pictures():
    images = blank(3)
    images[0] = torch.nan
    frames = [frame(standing()), frame(sitting()), frame(standing())]
    _, report = ranked([images], "pose", target_pose=[frame(standing())], pose_keypoint=frames)
    assert report["order"] == [3, 2, 1]


def test_where_nothing_can_be_scored_pictures_keep_their_order(caplog):
    with caplog.at_level(logging.WARNING, logger="bolid.nodes.ranking"):
        _, report = ranked([blank(3)], "pose", target_pose=[frame(standing())], pose_keypoint=[frame()] * 3)
    assert report["order"] == [1, 2, 3] and report["scored"] == 0
    assert "none of 3 pictures could be scored by pose (no person found)" in caplog.text


@pytest.mark.parametrize("images", [[], [blank(0)]], ids=["nothing", "an empty batch"])
def test_no_pictures(images, clip_vision):
    with pytest.raises(ValueError, match="There are no pictures to rank"):
        run_node(images, "aesthetic", clip_vision=clip_vision)


def test_the_preview_shows_all_pictures_in_order(by_brightness):
    from bolid.nodes.ranking import PREVIEW_SIDE, _preview
    from bolid.nodes.scores import Score

    pictures = [coloured(0.9)[0], coloured(0.6)[0], torch.full((1, 300, 3), 0.5), torch.full((300, 1, 4), torch.nan)]
    scores = [Score(value=0.25), Score(value=0.5), Score.missing("no face found"), Score.missing("x" * 300)]
    preview = _preview(pictures, scores, [1, 0, 2, 3], kept=1)
    assert preview.shape == (4, PREVIEW_SIDE, PREVIEW_SIDE, 3)
    middle = PREVIEW_SIDE // 3
    assert preview[0, middle, middle].tolist() == pytest.approx([0.6] * 3, abs=0.01)
    assert preview[1, middle, middle].tolist() == pytest.approx([0.27] * 3, abs=0.01)  # not kept: dark
    assert all((picture[-20:] > 0.4).any() for picture in preview)  # words


def test_progress_reaches_its_end(photos, clip_vision, monkeypatch):
    references = reference_photos([photos["astronaut"]], clip_vision=clip_vision)
    seen = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda *given, **named: seen.append(given[:2]))
    images = [photos["wall"], photos["astronaut"], photos["grace_hopper"]]
    ranked(images, "identity", references=references, clip_vision=clip_vision, crop="face")
    assert seen[0] == (1, 6) and seen[-1] == (6, 6)


def test_interrupting(photos, clip_vision, monkeypatch):
    references = reference_photos([photos["astronaut"]], clip_vision=clip_vision)
    encoded = []
    monkeypatch.setattr(clip_vision, "encode_image", lambda image: encoded.append(1))
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        ranked([photos["bus"]], "identity", references=references, clip_vision=clip_vision)
    assert not encoded


# A real server


def graph(by: str, **inputs) -> dict:
    """Three frames of one person and a photo of nobody, ranked, and the best two saved."""
    return {
        "model": {"class_type": "BoLIDDemoModelLoader", "inputs": {"method": "ip_adapter"}},
        "known": {"class_type": "BoLIDLoadReferences", "inputs": {"folder": "", "files": "rank/known.png"}},
        "encode": {
            "class_type": "MultiRefImageEncoder",
            "inputs": {
                "images": ["known", 0],
                "clip_vision": ["model", 3],
                "crop": "whole",
                "on_missing": "skip",
            },
        },
        "load": {"class_type": "BoLIDLoadReferences", "inputs": {"folder": "rank", "files": ""}},
        "rank": {
            "class_type": "BoLIDRankImages",
            "inputs": {"images": ["load", 0], "by": by, "keep": 2, "clip_vision": ["model", 3], **inputs},
        },
        "text": {"class_type": "PreviewAny", "inputs": {"source": ["rank", 1]}},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["rank", 0], "filename_prefix": "rank"}},
    }


@pytest.mark.server
def test_on_a_real_server(server, photographs):
    import io

    for name, photo in {"known": "astronaut", "a": "bus", "b": "carphone_0", "c": "grace_hopper"}.items():
        data = io.BytesIO()
        photographs[photo].save(data, "PNG")
        server.client.upload_image(data.getvalue(), name=f"{name}.png", subfolder="rank")
    prompt = graph("identity", references=["encode", 0], pose_model="of_another_machine.task")
    history = server.client.wait(server.client.queue(prompt))
    report = json.loads(history["outputs"]["text"]["text"][0])
    assert report["order"][0] == 4 and values(report)[3] == pytest.approx(1, abs=1e-4)  # a, b, c, known
    assert len(history["outputs"]["save"]["images"]) == 2 and len(history["outputs"]["rank"]["images"]) == 4

    with pytest.raises(ExecutionError, match="Ranking by identity needs 'references'"):
        server.client.run(graph("identity"))
    with pytest.raises(ExecutionError, match="No aesthetic model is chosen"):
        server.client.run(graph("aesthetic"))
    # The demo's text encoder and image encoder are of no common CLIP.
    with pytest.raises(ExecutionError, match="they are of different CLIP models"):
        server.client.run(graph("text", clip=["model", 1], prompt="a red square"))
    with pytest.raises(PromptError, match="by.*beauty"):
        server.client.run(graph("beauty"))
