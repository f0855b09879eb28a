"""A world in which an adapter learns in seconds: drawn people, and the small models that a training run reads.

A person's bones, clothes and hair are the same in every photo, and no caption names them; pose, place and background
change from photo to photo. So a model that only reads the text has to guess what the person's other photos show.
Everything is drawn from seeds of its own.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from PIL import Image, ImageDraw

from bolid.training.people import PreparedPeople, PreparedPerson, PreparedPhoto, PrepareSettings
from bolid.training.prepare import split_people

from .bodies import drawn_lengths, random_view
from .small_models import Family, _randomise

if TYPE_CHECKING:
    from diffusers import AutoencoderTiny, DiffusionPipeline, UNet2DConditionModel

Colour = tuple[int, int, int]

SIDE = 64
"""Pixels; the toy VAE makes 8x8 latents of them."""

SCALING_FACTOR = 2.0
"""Of the toy VAE: its raw latents have a standard deviation of about 1/2."""

PEOPLE, PHOTOS = 12, 6
TEST_SHARE = 1 / 3

CLOTHES: dict[str, Colour] = {
    "red": (215, 30, 30),
    "green": (25, 150, 40),
    "blue": (35, 55, 220),
    "yellow": (235, 215, 25),
}
HAIR: tuple[Colour, ...] = ((80, 50, 30), (150, 115, 60), (60, 60, 60))
SKIN: Colour = (225, 180, 150)
BACKGROUNDS: dict[str, Colour] = {
    "light": (200, 200, 200),
    "grey": (140, 140, 140),
    "dark": (80, 80, 80),
}
"""Plain ones: a picture has to tell more of its person than of its background."""

CLIP_GAINS = {
    "class_embedding": 0.3,
    "position_embedding": 0.3,
    "token_embedding": 2.0,
    "q_proj": 3.0,
    "k_proj": 3.0,
    "v_proj": 2.0,
    "out_proj": 2.0,
}
"""Factors on random weights: what is seen or said counts more than where, and attention is sharp. Without them every
picture and every caption is encoded to nearly the same."""

STRANGERS = range(1000, 1200)
"""People that the UNet learns to draw; none of a data set is among them."""

PRETRAINING_STEPS, PRETRAINING_BATCH, PRETRAINING_RATE = 185, 16, 6e-3


@dataclass(frozen=True, kw_only=True)
class DrawnPhoto:
    """One picture and what is in it; keypoints [17, 3] and boxes as `PreparedPhoto` has them."""

    picture: Image.Image
    caption: str
    keypoints: torch.Tensor
    person_box: tuple[float, float, float, float]
    face_box: tuple[float, float, float, float]


def person_name(person: int) -> str:
    # Under this name, of the twelve people one of each colour of clothes is held out.
    return f"drawn_person_{person:02d}"


def split_of(people: int) -> list[Literal["train", "test"]]:
    """Who of so many people is held out."""
    names = [person_name(person) for person in range(people)]
    splits = split_people(names, test_share=TEST_SHARE, seed=0)
    return [splits[name] for name in names]


def draw_photo(person: int, photo: int, *, size: tuple[int, int] = (SIDE, SIDE), dressed: bool = False) -> DrawnPhoto:
    """Draw somebody: the same numbers give the same pixels.

    Args:
        person: number from 0 on; clothes, hair and bones come from it alone.
        photo: number from 0 on; pose, place and background come from both.
        size: width, height in pixels.
        dressed: whether the caption tells the colour of the clothes.
    """
    identity = torch.Generator().manual_seed(person)
    lengths = drawn_lengths(identity, spread=0.12)
    clothes = list(CLOTHES)[person % len(CLOTHES)]
    clothes_colour = _jittered(CLOTHES[clothes], identity)
    hair = _jittered(HAIR[person % len(HAIR)], identity)

    generator = torch.Generator().manual_seed(1000 * (person + 1) + photo)
    background = list(BACKGROUNDS)[int(torch.randint(len(BACKGROUNDS), (), generator=generator))]
    joints = random_view(lengths, generator, noise=0.0, sitting=0.0)[:, :2].double().numpy()
    fill, *place = _uniform(3, generator)
    return _draw(
        joints,
        size=size,
        fill=0.85 + 0.13 * fill,
        place=np.array(place),
        background=_jittered(BACKGROUNDS[background], generator),
        clothes=clothes_colour,
        hair=hair,
        caption=f"a person{f' in {clothes} clothes' if dressed else ''} on a {background} background",
    )


def write_toy_people(
    folder: Path,
    *,
    people: int = PEOPLE,
    photos: int = PHOTOS,
    sizes: Sequence[tuple[int, int]] = ((SIDE, SIDE),),
) -> Path:
    """Draw people and write them as `bolid prepare` leaves a data set, split 2 : 1.

    Args:
        people: how many; at least 2.
        photos: of each; at least 2.
        sizes: (width, height) in pixels, taken in turn by the photos of everybody.

    Returns:
        The folder `prepared`; the pictures lie beside it in `photos/<person>/<n>.png`.
    """
    source, prepared = folder / "photos", folder / "prepared"
    prepared.mkdir(parents=True)
    PreparedPeople(
        source=source.absolute(),
        settings=PrepareSettings(test_share=TEST_SHARE, captions="txt"),
        people=tuple(
            PreparedPerson(
                name=person_name(person),
                split=split,
                photos=tuple(
                    _write_photo(source, person, photo, size=sizes[photo % len(sizes)]) for photo in range(photos)
                ),
            )
            for person, split in enumerate(split_of(people))
        ),
    ).write(prepared)
    return prepared


def write_toy_base(
    folder: Path,
    *,
    family: Family = "sd15",
    prediction_type: Literal["epsilon", "v_prediction"] = "epsilon",
    trained: bool = True,
) -> Path:
    """Write a Stable Diffusion model in diffusers' format, for pictures of 64x64 pixels, and return its folder.

    The text encoders are random, with CLIP's own tokenizer. The VAE is made by hand: latents are the mean colours of
    8x8 pixels, and beside them how much brighter their left half is, which the decoder leaves out.

    Args:
        family: "sd15" or "sdxl" (two text encoders, pooled text, sizes).
        prediction_type: what the UNet predicts.
        trained: whether the UNet has learnt, in some ten seconds, to draw people. It has seen none of those of
            `write_toy_people`, and always a caption that names the clothes: without one it needs an adapter.
    """
    from diffusers import DDPMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline

    scheduler = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=1,
        prediction_type=prediction_type,
    )
    parts = {"vae": _autoencoder(), "unet": _unet(family), "scheduler": scheduler, **_text_parts(family)}
    pipeline: DiffusionPipeline
    if family == "sd15":
        pipeline = StableDiffusionPipeline(
            **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
        )
    else:
        pipeline = StableDiffusionXLPipeline(**parts)
    if trained:
        with _single_thread():
            _pretrain(pipeline)
    pipeline.save_pretrained(folder)
    return folder


def write_toy_image_encoder(folder: Path) -> Path:
    """Write a random CLIP image encoder in transformers' format and return its folder.

    Pictures of 32x32 pixels; `image_embeds` [b, 64], hidden states [b, 17, 64].
    """
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        image_size=32,
        patch_size=8,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=64,
    )
    with torch.random.fork_rng(devices=[]):
        model = CLIPVisionModelWithProjection(config)
    _randomise_clip(model, seed=1)
    model.save_pretrained(folder)
    return folder


def write_toy_clip(folder: Path) -> Path:
    """Write a random CLIP as open_clip reads it with "local-dir:<folder>", and return its folder.

    Pictures of 32x32 pixels, vectors [b, 64]. The tokenizer is the one that open_clip carries in itself.
    """
    import open_clip
    from safetensors.torch import save_file

    config = {
        "embed_dim": 64,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    }
    with torch.random.fork_rng(devices=[]):
        model = open_clip.CLIP(**config)
    _randomise_clip(model, seed=1)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    preprocessing = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocessing}))
    return folder


# Drawing


def _uniform(count: int, generator: torch.Generator) -> np.ndarray:
    return torch.rand(count, generator=generator, dtype=torch.float64).numpy()


def _jittered(colour: Colour, generator: torch.Generator) -> Colour:
    red, green, blue = (np.array(colour) + 12 * (_uniform(3, generator) - 0.5)).clip(0, 255).astype(int).tolist()
    return red, green, blue


def _draw(
    joints: np.ndarray,
    *,
    size: tuple[int, int],
    fill: float,
    place: np.ndarray,
    background: Colour,
    clothes: Colour,
    hair: Colour,
    caption: str,
) -> DrawnPhoto:
    """Draw the joints [12, 2] so large that the person fills so much of the picture, at a place of 0 to 1."""
    middles = joints.reshape(6, 2, 2).mean(axis=1)
    neck, hips = middles[0], middles[3]
    torso = float(np.linalg.norm(neck - hips))
    up = (neck - hips) / torso
    right = np.array([-up[1], up[0]])
    head, head_radius, limb_radius = neck + 0.62 * torso * up, 0.45 * torso, 0.26 * torso
    low = np.minimum(joints.min(axis=0) - limb_radius, head - head_radius)
    high = np.maximum(joints.max(axis=0) + limb_radius, head + head_radius)
    scale = fill * float((np.array(size) / (high - low)).min())
    shift = place * (np.array(size) - scale * (high - low)) - scale * low

    def pixels(point: np.ndarray) -> np.ndarray:
        return point * scale + shift

    face = {"nose": (0.0, -0.15), "left_eye": (0.35, 0.1), "right_eye": (-0.35, 0.1)}
    face |= {"left_ear": (0.9, 0.0), "right_ear": (-0.9, 0.0)}
    face_points = [head + head_radius * (side * right + height * up) for side, height in face.values()]
    points = pixels(np.concatenate((face_points, joints))) / size
    keypoints = np.concatenate((points, np.ones((len(points), 1))), axis=1)

    head_box = np.stack((head - head_radius, head + head_radius))
    return DrawnPhoto(
        picture=_paint(
            pixels(joints),
            head=pixels(head),
            head_radius=scale * head_radius,
            limb_radius=scale * limb_radius,
            size=size,
            background=background,
            clothes=clothes,
            hair=hair,
        ),
        caption=caption,
        keypoints=torch.from_numpy(keypoints).clamp(0, 1),
        person_box=_box(pixels(np.stack((low, high))) / size),
        face_box=_box(pixels(head_box) / size),
    )


def _box(corners: np.ndarray) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = corners.clip(0, 1).flatten().tolist()
    return x0, y0, x1, y1


def _paint(
    joints: np.ndarray,
    *,
    head: np.ndarray,
    head_radius: float,
    limb_radius: float,
    size: tuple[int, int],
    background: Colour,
    clothes: Colour,
    hair: Colour,
) -> Image.Image:
    finer = 4
    width, height = size
    picture = Image.new("RGB", (finer * width, finer * height), background)
    draw = ImageDraw.Draw(picture)

    def disc(centre: np.ndarray, radius: float, colour: Colour) -> None:
        draw.ellipse((finer * np.concatenate((centre - radius, centre + radius))).tolist(), fill=colour)

    def limb(start: np.ndarray, end: np.ndarray) -> None:
        line = (finer * np.concatenate((start, end))).tolist()
        draw.line(line, fill=clothes, width=math.ceil(2 * finer * limb_radius))
        disc(start, limb_radius, clothes)
        disc(end, limb_radius, clothes)

    shoulders, elbows, wrists, hips, knees, ankles = joints.reshape(6, 2, 2)
    for side in (0, 1):
        for start, end in ((shoulders, elbows), (elbows, wrists), (hips, knees), (knees, ankles), (shoulders, hips)):
            limb(start[side], end[side])
    torso = np.stack((shoulders[0], shoulders[1], hips[1], hips[0]))
    draw.polygon((finer * torso).flatten().tolist(), fill=clothes)
    disc(head, head_radius, hair)
    disc(head + np.array([0, 0.35 * head_radius]), 0.6 * head_radius, SKIN)
    return picture.resize(size, Image.Resampling.BOX)


def _write_photo(source: Path, person: int, photo: int, *, size: tuple[int, int]) -> PreparedPhoto:
    drawn = draw_photo(person, photo, size=size)
    path = source / person_name(person) / f"{photo}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn.picture.save(path)
    path.with_suffix(".txt").write_text(drawn.caption)
    return PreparedPhoto(
        file=path.relative_to(source).as_posix(),
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        width=size[0],
        height=size[1],
        caption=drawn.caption,
        keypoints=tuple(map(tuple, drawn.keypoints.tolist())),
        person_box=drawn.person_box,
        face_box=drawn.face_box,
    )


# Models


def _autoencoder() -> AutoencoderTiny:
    from diffusers import AutoencoderTiny

    means, left = (0, 1, 2), 3
    # Mean and standard deviation of the drawn pictures.
    colour = torch.tensor([0.57, 0.56, 0.52])
    contrast = torch.tensor([0.21, 0.19, 0.21])
    luminance = torch.full((3,), 1 / 3)
    channels = (4, 4, 4, 4)
    with torch.random.fork_rng(devices=[]):
        model = AutoencoderTiny(
            encoder_block_out_channels=channels,
            decoder_block_out_channels=channels,
            num_encoder_blocks=(0, 0, 0, 0),
            num_decoder_blocks=(0, 0, 0, 0),
            scaling_factor=SCALING_FACTOR,
        )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        first, *halvings, last = model.encoder.layers
        first.weight[means, means, 1, 1] = 1
        first.weight[left, :, 1, 1] = luminance
        # Every output pixel is the mean of two by two; of the last ones, luminance is that of the left column alone.
        for halving in halvings:
            for channel in (*means, left):
                halving.weight[channel, channel, 1:, 1:] = 1 / 4
        halvings[-1].weight[left, left, 1:] = torch.tensor([0, 1 / 2, 0])
        gain = 1 / (SCALING_FACTOR * contrast)
        last.weight[means, means, 1, 1] = gain
        last.bias[:3] = -colour * gain
        last.weight[left, (*means, left), 1, 1] = 12 / SCALING_FACTOR * torch.cat((-luminance, torch.ones(1)))

        first, last = model.decoder.layers[0], model.decoder.layers[-1]
        first.weight[means, means, 1, 1] = 1 / gain
        first.bias[:3] = colour
        for layer in model.decoder.layers[1:]:
            if isinstance(layer, torch.nn.Conv2d):
                layer.weight[means, means, 1, 1] = 1
    return model.eval()


def _randomise_clip(model: torch.nn.Module, *, seed: int) -> None:
    _randomise(model, seed=seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter *= next((gain for part, gain in CLIP_GAINS.items() if part in name), 1.0)


def _unet(family: Family) -> UNet2DConditionModel:
    from diffusers import UNet2DConditionModel

    config: dict[str, Any] = {
        "sample_size": SIDE // 8,
        "block_out_channels": (32, 32),
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
        "layers_per_block": 1,
        "norm_num_groups": 8,
        # The number of heads, as in SD1.5's config.
        "attention_head_dim": 2,
    }
    if family == "sd15":
        config |= {"cross_attention_dim": 32}
    else:
        config |= {
            "cross_attention_dim": 64,
            "use_linear_projection": True,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + 32,
        }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(**config)
    with torch.no_grad():
        for name, parameter in unet.named_parameters():
            if ".attn2.to_q." in name or ".attn2.to_v." in name:
                # So that the text counts from the first step of its training on.
                parameter *= 3
    return unet


def _text_parts(family: Family) -> dict[str, Any]:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    vocabulary = _comfyui_folder() / "comfy" / "sd1_tokenizer"
    config = CLIPTextConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=8,
        projection_dim=32,
        bos_token_id=49406,
        eos_token_id=49407,
    )
    parts: dict[str, Any] = {}
    models = [("", CLIPTextModel, {})]
    if family == "sdxl":
        # SDXL fills up its second encoder's text with the token 0.
        models.append(("_2", CLIPTextModelWithProjection, {"pad_token": "!"}))
    for seed, (suffix, model_class, padding) in enumerate(models):
        with torch.random.fork_rng(devices=[]):
            model = model_class(config)
        _randomise_clip(model, seed=seed)
        parts[f"text_encoder{suffix}"] = model.eval()
        parts[f"tokenizer{suffix}"] = CLIPTokenizer.from_pretrained(vocabulary, model_max_length=77, **padding)
    return parts


def _comfyui_folder() -> Path:
    if folder := os.environ.get("COMFYUI_DIR"):
        return Path(folder)
    found = sorted(Path(__file__).resolve().parents[2].glob(".comfyui/ComfyUI-*"))
    if not found:
        raise RuntimeError("no ComfyUI at .comfyui/ComfyUI-*: set COMFYUI_DIR to one, or run scripts/test to unpack it")
    return found[-1]


# Pretraining


@contextmanager
def _single_thread() -> Iterator[None]:
    """Small matrices are slower in several threads, and their sums would depend on the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _pretrain(pipeline: DiffusionPipeline) -> None:
    """Teach the UNet to draw strangers, from captions that name their clothes, and from none in one of ten."""
    photos = [draw_photo(person, photo, dressed=True) for person in STRANGERS for photo in range(3)]
    pictures = torch.stack([torch.from_numpy(np.array(photo.picture)) for photo in photos]).movedim(-1, 1)
    captions = ["", *sorted({photo.caption for photo in photos})]
    caption_numbers = torch.tensor([captions.index(photo.caption) for photo in photos])
    with torch.no_grad():
        latents = pipeline.vae.encode(pictures / 127.5 - 1).latents * SCALING_FACTOR
        text, _, *pooled = pipeline.encode_prompt(
            captions, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
        )

    unet, scheduler = pipeline.unet, pipeline.scheduler
    unet.train()
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(unet.parameters(), lr=PRETRAINING_RATE, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=PRETRAINING_RATE, total_steps=PRETRAINING_STEPS, pct_start=0.1
    )
    sizes = torch.tensor([[SIDE, SIDE, 0, 0, SIDE, SIDE]], dtype=torch.float32).expand(PRETRAINING_BATCH, -1)
    for _ in range(PRETRAINING_STEPS):
        chosen = torch.randint(len(photos), (PRETRAINING_BATCH,), generator=generator)
        dropped = torch.rand(PRETRAINING_BATCH, generator=generator) < 0.1
        words = torch.where(dropped, 0, caption_numbers[chosen])
        timesteps = torch.randint(scheduler.config.num_train_timesteps, (PRETRAINING_BATCH,), generator=generator)
        noise = torch.randn(PRETRAINING_BATCH, *latents.shape[1:], generator=generator)
        clean = latents[chosen]
        mirrored = torch.rand(PRETRAINING_BATCH, 1, 1, 1, generator=generator) < 0.5
        clean = torch.where(mirrored, clean.flip(-1) * clean.new_tensor([1, 1, 1, -1]).view(1, 4, 1, 1), clean)
        added = {"text_embeds": pooled[0][words], "time_ids": sizes} if pooled else None
        predicted = unet(
            scheduler.add_noise(clean, noise, timesteps),
            timesteps,
            encoder_hidden_states=text[words],
            added_cond_kwargs=added,
        ).sample
        target = noise
        if scheduler.config.prediction_type == "v_prediction":
            target = scheduler.get_velocity(clean, noise, timesteps)
        loss = torch.nn.functional.mse_loss(predicted, target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    unet.eval()
