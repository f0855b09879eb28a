"""Small graphs as other packs' users have them, in both forms.

A second, independent description of the old nodes to hold the package against: inputs, orders and types come from the
nodes' own `INPUT_TYPES` (https://github.com/cubiq/ComfyUI_IPAdapter_plus at 9d076a3, those of 2023 at 6a411dc). Nothing
here imports the package under test.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

Api = dict[str, dict[str, Any]]


class Slots(NamedTuple):
    """A node's inputs that only links give, its widgets in order (with what the frontend adds), and its outputs."""

    sockets: dict[str, str]
    widgets: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


APPLY = {"model": "MODEL", "ipadapter": "IPADAPTER", "image": "IMAGE"}
MORE = {"image_negative": "IMAGE", "attn_mask": "MASK", "clip_vision": "CLIP_VISION"}
SCHEDULE = ("start_at", "end_at")
ADVANCED = ("weight", "weight_type", "combine_embeds", *SCHEDULE, "embeds_scaling")
FACEID = ("weight", "weight_faceidv2", *ADVANCED[1:])

OLD: dict[str, Slots] = {
    "IPAdapterModelLoader": Slots({}, ("ipadapter_file",), ("IPADAPTER",)),
    "IPAdapterUnifiedLoader": Slots({"model": "MODEL", "ipadapter": "IPADAPTER"}, ("preset",), ("MODEL", "IPADAPTER")),
    "IPAdapterUnifiedLoaderFaceID": Slots(
        {"model": "MODEL", "ipadapter": "IPADAPTER"}, ("preset", "lora_strength", "provider"), ("MODEL", "IPADAPTER")
    ),
    "IPAdapterUnifiedLoaderCommunity": Slots(
        {"model": "MODEL", "ipadapter": "IPADAPTER"}, ("preset",), ("MODEL", "IPADAPTER")
    ),
    "IPAdapterInsightFaceLoader": Slots({}, ("provider", "model_name"), ("INSIGHTFACE",)),
    "IPAdapter": Slots(APPLY | {"attn_mask": "MASK"}, ("weight", *SCHEDULE, "weight_type"), ("MODEL",)),
    "IPAdapterAdvanced": Slots(APPLY | MORE, ADVANCED, ("MODEL",)),
    "IPAdapterBatch": Slots(
        APPLY | MORE, ("weight", "weight_type", *SCHEDULE, "embeds_scaling", "encode_batch_size"), ("MODEL",)
    ),
    "IPAdapterFaceID": Slots(APPLY | MORE | {"insightface": "INSIGHTFACE"}, FACEID, ("MODEL", "IMAGE")),
    "IPAAdapterFaceIDBatch": Slots(APPLY | MORE | {"insightface": "INSIGHTFACE"}, FACEID, ("MODEL", "IMAGE")),
    "IPAdapterTiled": Slots(APPLY | MORE, (*ADVANCED[:-1], "sharpening", "embeds_scaling"), ("MODEL", "IMAGE", "MASK")),
    "IPAdapterTiledBatch": Slots(
        APPLY | MORE,
        ("weight", "weight_type", *SCHEDULE, "sharpening", "embeds_scaling", "encode_batch_size"),
        ("MODEL", "IMAGE", "MASK"),
    ),
    "IPAdapterEmbeds": Slots(
        {
            "model": "MODEL",
            "ipadapter": "IPADAPTER",
            "pos_embed": "EMBEDS",
            "neg_embed": "EMBEDS",
            "attn_mask": "MASK",
            "clip_vision": "CLIP_VISION",
        },
        ("weight", "weight_type", *SCHEDULE, "embeds_scaling"),
        ("MODEL",),
    ),
    "IPAdapterStyleComposition": Slots(
        {"model": "MODEL", "ipadapter": "IPADAPTER", "image_style": "IMAGE", "image_composition": "IMAGE"} | MORE,
        ("weight_style", "weight_composition", "expand_style", "combine_embeds", *SCHEDULE, "embeds_scaling"),
        ("MODEL",),
    ),
    "IPAdapterMS": Slots(APPLY | MORE | {"insightface": "INSIGHTFACE"}, (*FACEID, "layer_weights"), ("MODEL",)),
    "IPAdapterClipVisionEnhancer": Slots(APPLY | MORE, (*ADVANCED, "enhance_tiles", "enhance_ratio"), ("MODEL",)),
    "IPAdapterFromParams": Slots(
        {
            "model": "MODEL",
            "ipadapter": "IPADAPTER",
            "ipadapter_params": "IPADAPTER_PARAMS",
            "image_negative": "IMAGE",
            "clip_vision": "CLIP_VISION",
        },
        ("combine_embeds", "embeds_scaling"),
        ("MODEL",),
    ),
    "IPAdapterPreciseStyleTransfer": Slots(
        APPLY | MORE, ("weight", "style_boost", "combine_embeds", *SCHEDULE, "embeds_scaling"), ("MODEL",)
    ),
    "IPAdapterPreciseComposition": Slots(
        APPLY | MORE, ("weight", "composition_boost", "combine_embeds", *SCHEDULE, "embeds_scaling"), ("MODEL",)
    ),
    "IPAdapterEncoder": Slots(
        {"ipadapter": "IPADAPTER", "image": "IMAGE", "mask": "MASK", "clip_vision": "CLIP_VISION"},
        ("weight",),
        ("EMBEDS", "EMBEDS"),
    ),
    "IPAdapterCombineEmbeds": Slots({f"embed{n}": "EMBEDS" for n in range(1, 6)}, ("method",), ("EMBEDS",)),
    "IPAdapterSaveEmbeds": Slots({"embeds": "EMBEDS"}, ("filename_prefix",)),
    "IPAdapterLoadEmbeds": Slots({}, ("embeds",), ("EMBEDS",)),
    "IPAdapterNoise": Slots({"image_optional": "IMAGE"}, ("type", "strength", "blur"), ("IMAGE",)),
    "PrepImageForClipVision": Slots({"image": "IMAGE"}, ("interpolation", "crop_position", "sharpening"), ("IMAGE",)),
    "IPAdapterRegionalConditioning": Slots(
        {"image": "IMAGE", "mask": "MASK", "positive": "CONDITIONING", "negative": "CONDITIONING"},
        ("image_weight", "prompt_weight", "weight_type", *SCHEDULE),
        ("IPADAPTER_PARAMS", "CONDITIONING", "CONDITIONING"),
    ),
    "IPAdapterCombineParams": Slots(
        {f"params_{n}": "IPADAPTER_PARAMS" for n in range(1, 6)}, (), ("IPADAPTER_PARAMS",)
    ),
    "IPAdapterWeights": Slots(
        {"image": "IMAGE"},
        (
            "weights",
            "timing",
            "frames",
            "start_frame",
            "end_frame",
            "add_starting_frames",
            "add_ending_frames",
            "method",
        ),
        ("FLOAT", "FLOAT", "INT", "IMAGE", "IMAGE", "WEIGHTS_STRATEGY"),
    ),
    # Until March 2024
    "InsightFaceLoader": Slots({}, ("provider",), ("INSIGHTFACE",)),
    "IPAdapterApply": Slots(
        {
            "ipadapter": "IPADAPTER",
            "clip_vision": "CLIP_VISION",
            "image": "IMAGE",
            "model": "MODEL",
            "attn_mask": "MASK",
        },
        ("weight", "noise", "weight_type", *SCHEDULE, "unfold_batch"),
        ("MODEL",),
    ),
    "IPAdapterApplyFaceID": Slots(
        {
            "ipadapter": "IPADAPTER",
            "clip_vision": "CLIP_VISION",
            "insightface": "INSIGHTFACE",
            "image": "IMAGE",
            "model": "MODEL",
            "attn_mask": "MASK",
        },
        ("weight", "noise", "weight_type", *SCHEDULE, "faceid_v2", "weight_v2", "unfold_batch"),
        ("MODEL",),
    ),
    "IPAdapterApplyEncoded": Slots(
        {"ipadapter": "IPADAPTER", "embeds": "EMBEDS", "model": "MODEL", "attn_mask": "MASK"},
        ("weight", "weight_type", *SCHEDULE, "unfold_batch"),
        ("MODEL",),
    ),
    "IPAdapterEncoder (2023)": Slots(
        {"clip_vision": "CLIP_VISION", **{f"image_{n}": "IMAGE" for n in range(1, 5)}},
        ("ipadapter_plus", "noise", "weight_1", "weight_2", "weight_3", "weight_4"),
        ("EMBEDS",),
    ),
    "IPAdapterBatchEmbeds": Slots({"embed1": "EMBEDS", "embed2": "EMBEDS"}, (), ("EMBEDS",)),
    # Other packs
    "ApplyPulid": Slots({"model": "MODEL", "image": "IMAGE"}, ("method", "weight"), ("MODEL",)),
    "DWPreprocessor": Slots({"image": "IMAGE"}, ("detect_hand",), ("IMAGE", "POSE_KEYPOINT")),
}
OTHERS: dict[str, Slots] = {
    "CheckpointLoaderSimple": Slots({}, ("ckpt_name",), ("MODEL", "CLIP", "VAE")),
    "CLIPVisionLoader": Slots({}, ("clip_name",), ("CLIP_VISION",)),
    "CLIPTextEncode": Slots({"clip": "CLIP"}, ("text",), ("CONDITIONING",)),
    "ConditioningCombine": Slots(
        {"conditioning_1": "CONDITIONING", "conditioning_2": "CONDITIONING"}, (), ("CONDITIONING",)
    ),
    "EmptyLatentImage": Slots({}, ("width", "height", "batch_size"), ("LATENT",)),
    "ImageBatch": Slots({"image1": "IMAGE", "image2": "IMAGE"}, (), ("IMAGE",)),
    "KSampler": Slots(
        {"model": "MODEL", "positive": "CONDITIONING", "negative": "CONDITIONING", "latent_image": "LATENT"},
        ("seed", "control_after_generate", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
        ("LATENT",),
    ),
    "LoadImage": Slots({}, ("image", "upload"), ("IMAGE", "MASK")),
    "LoraLoaderModelOnly": Slots({"model": "MODEL"}, ("lora_name", "strength_model"), ("MODEL",)),
    "MaskToImage": Slots({"mask": "MASK"}, (), ("IMAGE",)),
    "PreviewImage": Slots({"images": "IMAGE"}),
    "PrimitiveFloat": Slots({}, ("value",), ("FLOAT",)),
    "SaveImage": Slots({"images": "IMAGE"}, ("filename_prefix",)),
    "SolidMask": Slots({}, ("value", "width", "height"), ("MASK",)),
    "Unknown": Slots({"image": "IMAGE", "model": "MODEL"}, ("first", "second", "third"), ("IMAGE", "MODEL", "MASK")),
    "VAEDecode": Slots({"samples": "LATENT", "vae": "VAE"}, (), ("IMAGE",)),
}
EXTRA_WIDGETS = {"control_after_generate": "fixed", "upload": "image"}
"""What the frontend stores beside a node's own widgets."""

SEED = 2**63 + 12345
"""More than a float holds."""

SD15, SDXL = "v1-5-pruned.safetensors", "sd_xl_base_1.0.safetensors"
VIT_H = "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors"


def node(type_: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": type_, "inputs": inputs}


def graph(nodes: Mapping[str, dict[str, Any]], *, model: list[Any], checkpoint: str = SD15, **sampler: Any) -> Api:
    """A graph that draws: what every one has (ids 1 to 9), and the nodes given, the last of which gives the MODEL."""
    defaults = {
        "seed": SEED,
        "steps": 20,
        "cfg": 6.5,
        "sampler_name": "euler",
        "scheduler": "normal",
        "positive": ["3", 0],
        "negative": ["4", 0],
        "latent_image": ["5", 0],
        "denoise": 1.0,
    }
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "2": node("CLIPVisionLoader", clip_name=VIT_H),
        "3": node("CLIPTextEncode", text="a person in a garden", clip=["1", 1]),
        "4": node("CLIPTextEncode", text="blurry", clip=["1", 1]),
        "5": node("EmptyLatentImage", width=512, height=768, batch_size=1),
        "6": node("LoadImage", image="anna.png"),
        **nodes,
        "7": node("KSampler", model=model, **(defaults | sampler)),
        "8": node("VAEDecode", samples=["7", 0], vae=["1", 2]),
        "9": node("SaveImage", images=["8", 0], filename_prefix="old"),
    }


def advanced(type_: str = "IPAdapterAdvanced", **changes: Any) -> dict[str, Any]:
    """A node with adapter 10 and photo 6, every setting at its default but the weight."""
    values = {
        "weight": 0.8,
        "weight_faceidv2": 1.0,
        "weight_type": "linear",
        "combine_embeds": "concat",
        "start_at": 0.0,
        "end_at": 1.0,
        "embeds_scaling": "V only",
        "sharpening": 0.0,
        "encode_batch_size": 0,
        "style_boost": 0.8,
        "composition_boost": 0.8,
        "layer_weights": "",
        "enhance_tiles": 2,
        "enhance_ratio": 1.0,
        "noise": 0.0,
        "faceid_v2": True,
        "weight_v2": 1.0,
        "unfold_batch": False,
    }
    given = {"model": ["1", 0], "ipadapter": ["10", 0], "image": ["6", 0], "clip_vision": ["2", 0]}
    links = {name: link for name, link in given.items() if name in OLD[type_].sockets}
    return node(type_, **(links | {name: values[name] for name in OLD[type_].widgets} | changes))


def loader(file: str = "ip-adapter_sd15.safetensors") -> dict[str, Any]:
    return node("IPAdapterModelLoader", ipadapter_file=file)


def unified(preset: str = "PLUS (high strength)", type_: str = "IPAdapterUnifiedLoader", **more: Any) -> dict[str, Any]:
    return node(type_, model=["1", 0], preset=preset, **more)


def ui_form(api: Api, *, converted_widgets: bool = False) -> dict[str, Any]:
    """The same graph as the frontend saves it: nodes on a grid, values by position, links in a list.

    Args:
        converted_widgets: list every widget among the inputs, as frontends since 2025 do.
    """
    ids = {node_id: int(node_id) for node_id in api}
    links: list[list[Any]] = []
    entries = {node_id: _entry(ids[node_id], given, number) for number, (node_id, given) in enumerate(api.items())}
    for node_id, given in api.items():
        entry, slots = entries[node_id], slots_of(given)
        names = [name for name in slots.sockets if name in given["inputs"]]
        widgets = [name for name in slots.widgets if name not in EXTRA_WIDGETS]
        linked = [name for name in widgets if is_link(given["inputs"].get(name))]
        for name in [*slots.sockets, *(widgets if converted_widgets else linked)]:
            given_input = {"name": name, "type": slots.sockets.get(name, "FLOAT"), "link": None}
            if name not in slots.sockets:
                given_input["widget"] = {"name": name}
            entry["inputs"].append(given_input)
            if name in names or name in linked:
                source, slot = given["inputs"][name]
                origin = entries[source]
                link = [len(links) + 1, ids[source], slot, ids[node_id], len(entry["inputs"]) - 1]
                links.append([*link, origin["outputs"][slot]["type"]])
                given_input["link"] = link[0]
                output = origin["outputs"][slot]
                output["links"] = [*(output["links"] or ()), link[0]]
    return {
        "last_node_id": max(ids.values()),
        "last_link_id": len(links),
        "nodes": list(entries.values()),
        "links": links,
        "groups": [{"title": "Everything", "bounding": [0, 0, 4000, 4000], "color": "#3f789e"}],
        "config": {},
        "extra": {"ds": {"scale": 0.9, "offset": [10.5, -3]}},
        "version": 0.4,
    }


def is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def slots_of(given: Mapping[str, Any]) -> Slots:
    """Slots of a node in API form."""
    type_ = given["class_type"]
    if type_ == "IPAdapterEncoder" and "image_1" in given["inputs"]:
        return OLD["IPAdapterEncoder (2023)"]
    return OLD.get(type_) or OTHERS[type_]


def _entry(node_id: int, given: Mapping[str, Any], number: int) -> dict[str, Any]:
    slots = slots_of(given)
    values = [given["inputs"].get(name, EXTRA_WIDGETS.get(name)) for name in slots.widgets]
    return {
        "id": node_id,
        "type": given["class_type"],
        "pos": [400 * (number % 6), 500 * (number // 6)],
        # Older files hold sizes in this way.
        "size": {"0": 315, "1": 270},
        "flags": {},
        "order": number,
        "mode": 0,
        "inputs": [],
        "outputs": [{"name": type_, "type": type_, "links": None} for type_ in slots.outputs],
        "properties": {"Node name for S&R": given["class_type"]},
        # A linked widget keeps the value it had.
        "widgets_values": [0.5 if is_link(value) else value for value in values],
    }


def _regions() -> Api:
    regions = {
        str(number): node(
            "IPAdapterRegionalConditioning",
            image=["6", 0],
            image_weight=0.7,
            prompt_weight=0.9,
            weight_type="ease out",
            start_at=0.0,
            end_at=0.8,
            mask=["20", 0],
            positive=["3", 0],
            **({"negative": ["4", 0]} if number == 21 else {}),
        )
        for number in (21, 22)
    }
    return graph(
        {
            "10": unified("STANDARD (medium strength)"),
            "20": node("SolidMask", value=1.0, width=512, height=768),
            **regions,
            "23": node("IPAdapterCombineParams", params_1=["21", 0], params_2=["22", 0]),
            "24": node("ConditioningCombine", conditioning_1=["21", 1], conditioning_2=["22", 1]),
            "11": node(
                "IPAdapterFromParams",
                model=["10", 0],
                ipadapter=["10", 1],
                ipadapter_params=["23", 0],
                combine_embeds="concat",
                embeds_scaling="K+V",
            ),
        },
        model=["11", 0],
        positive=["24", 0],
        negative=["21", 2],
    )


def _embeds(method: str = "average") -> Api:
    encoders = {
        str(number): node("IPAdapterEncoder", ipadapter=["10", 1], image=["6", 0], weight=1.0) for number in (21, 22)
    }
    return graph(
        {
            "10": unified(),
            **encoders,
            "23": node("IPAdapterCombineEmbeds", embed1=["21", 0], embed2=["22", 0], method=method),
            "24": node("IPAdapterSaveEmbeds", embeds=["23", 0], filename_prefix="anna"),
            "11": advanced(
                "IPAdapterEmbeds",
                model=["10", 0],
                ipadapter=["10", 1],
                pos_embed=["23", 0],
                neg_embed=["21", 1],
            ),
        },
        model=["11", 0],
    )


def _simple(type_: str, file: str = "ip-adapter-plus_sd15.safetensors", **changes: Any) -> Api:
    return graph({"10": loader(file), "11": advanced(type_, **changes)}, model=["11", 0])


def _unified(preset: str, type_: str = "IPAdapterUnifiedLoader", checkpoint: str = SD15, **more: Any) -> Api:
    apply = "IPAdapterFaceID" if "FaceID" in type_ else "IPAdapterAdvanced"
    changes = {"model": ["10", 0], "ipadapter": ["10", 1]}
    nodes = {"10": unified(preset, type_, **more), "11": advanced(apply, **changes)}
    del nodes["11"]["inputs"]["clip_vision"]
    return graph(nodes, model=["11", 0], checkpoint=checkpoint)


def graphs() -> dict[str, Api]:
    """Every old node at least once; all of these convert."""
    faceid_nodes = {
        "10": loader("ip-adapter-faceid-plusv2_sd15.bin"),
        "20": node("IPAdapterInsightFaceLoader", provider="CUDA", model_name="antelopev2"),
        "21": node("LoraLoaderModelOnly", model=["1", 0], lora_name="faceid.safetensors", strength_model=0.6),
        "11": advanced("IPAdapterFaceID", model=["21", 0], insightface=["20", 0]),
        "22": node("PreviewImage", images=["11", 1]),
    }
    first_faceid = {
        "10": loader("ip-adapter-faceid-plus_sd15.bin"),
        "20": node("InsightFaceLoader", provider="ROCM"),
        "11": advanced("IPAdapterApplyFaceID", insightface=["20", 0], weight_type="original", faceid_v2=False),
    }
    first_encoded = {
        "10": loader(),
        "20": node(
            "IPAdapterEncoder",
            clip_vision=["2", 0],
            image_1=["6", 0],
            image_2=["6", 0],
            ipadapter_plus=False,
            noise=0.0,
            weight_1=1.0,
            weight_2=1.0,
            weight_3=1.0,
            weight_4=1.0,
        ),
        "21": node("IPAdapterBatchEmbeds", embed1=["20", 0], embed2=["20", 0]),
        "11": advanced("IPAdapterApplyEncoded", embeds=["21", 0], weight_type="linear"),
    }
    prepared = {
        "20": node(
            "PrepImageForClipVision", image=["6", 0], interpolation="LANCZOS", crop_position="pad", sharpening=0.0
        ),
        "21": node(
            "PrepImageForClipVision", image=["6", 0], interpolation="BICUBIC", crop_position="center", sharpening=0.2
        ),
        "22": node(
            "PrepImageForClipVision", image=["20", 0], interpolation="LANCZOS", crop_position="top", sharpening=0.0
        ),
        "23": node("ImageBatch", image1=["21", 0], image2=["22", 0]),
        "24": node("IPAdapterNoise", image_optional=["20", 0], type="shuffle", strength=0.5, blur=4),
        "10": loader(),
        "11": advanced(image=["23", 0], image_negative=["24", 0]),
    }
    style = {
        "10": unified(),
        "20": node("LoadImage", image="beth.png"),
        "11": node(
            "IPAdapterStyleComposition",
            model=["10", 0],
            ipadapter=["10", 1],
            image_style=["6", 0],
            image_composition=["20", 0],
            weight_style=1.2,
            weight_composition=0.6,
            expand_style=True,
            combine_embeds="average",
            start_at=0.0,
            end_at=1.0,
            embeds_scaling="K+V",
        ),
    }
    tiled = {"10": loader(), "11": advanced("IPAdapterTiled"), "20": node("PreviewImage", images=["11", 1])}
    chained = {
        "10": unified("FACEID PLUS V2", "IPAdapterUnifiedLoaderFaceID", lora_strength=0.6, provider="OpenVINO"),
        "11": advanced("IPAdapterFaceID", model=["10", 0], ipadapter=["10", 1]),
        "12": node("IPAdapterUnifiedLoader", model=["11", 0], ipadapter=["10", 1], preset="PLUS FACE (portraits)"),
        "13": node(
            "IPAdapter",
            model=["12", 0],
            ipadapter=["12", 1],
            image=["6", 0],
            weight=0.35,
            start_at=0.1,
            end_at=0.9,
            weight_type="prompt is more important",
        ),
    }
    return {
        "loader and advanced": _simple("IPAdapterAdvanced"),
        "batch": _simple("IPAdapterBatch"),
        "mad scientist": _simple("IPAdapterMS", layer_weights="3:1.0, 6:0.5"),
        "enhancer": _simple("IPAdapterClipVisionEnhancer"),
        "tiled": graph(tiled, model=["11", 0]),
        "precise style": _simple("IPAdapterPreciseStyleTransfer", style_boost=1.1),
        "precise composition": _simple("IPAdapterPreciseComposition", composition_boost=0.3),
        "style and composition": graph(style, model=["11", 0], checkpoint=SDXL),
        "faceid with loaders": graph(faceid_nodes, model=["11", 0]),
        "faceid portrait": _unified(
            "FACEID PORTRAIT (style transfer)", "IPAdapterUnifiedLoaderFaceID", SDXL, lora_strength=0.6, provider="CPU"
        ),
        "faceid batch": graph(
            {
                "10": unified("FACEID", "IPAdapterUnifiedLoaderFaceID", lora_strength=0.5, provider="CPU"),
                "11": advanced("IPAAdapterFaceIDBatch", model=["10", 0], ipadapter=["10", 1]),
            },
            model=["11", 0],
        ),
        "community": _unified("Composition", "IPAdapterUnifiedLoaderCommunity", SDXL),
        "chained": graph(chained, model=["13", 0]),
        "embeds": _embeds(),
        "regions": _regions(),
        "prepared": graph(prepared, model=["11", 0]),
        "first apply": _simple("IPAdapterApply", weight_type="channel penalty", noise=0.3),
        "first faceid": graph(first_faceid, model=["11", 0]),
        "first encoded": graph(first_encoded, model=["11", 0]),
        "start after end": _simple("IPAdapterAdvanced", start_at=0.9, end_at=0.5),
        "mask and linked weight": graph(
            {
                "10": loader(),
                "20": node("SolidMask", value=1.0, width=512, height=768),
                "21": node("PrimitiveFloat", value=0.4),
                "11": advanced(attn_mask=["20", 0], weight=["21", 0], weight_type="style and composition"),
            },
            model=["11", 0],
        ),
    }
