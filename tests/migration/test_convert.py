"""Old graphs of both forms, node by node."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest

from bolid.migration.kinds import PLACED
from bolid.migration.report import Report, Status

from . import old_graphs
from .old_graphs import SD15, SDXL, SEED, VIT_H, Api, advanced, graph, graphs, loader, node, ui_form, unified

GRAPHS = graphs()


def of_type(api: Api, type_: str) -> list[dict[str, Any]]:
    return [given["inputs"] for given in api.values() if given["class_type"] == type_]


def only(api: Api, type_: str) -> dict[str, Any]:
    (found,) = of_type(api, type_)
    return found


def entries(report: Report) -> dict[str, Any]:
    return {str(entry.id): entry for entry in report.entries}


def applied(api: Api) -> list[dict[str, Any]]:
    """The adapters on the way of the sampler's MODEL, the first one first."""
    found = []
    source = only(api, "KSampler")["model"]
    while api[source[0]]["class_type"] in ("BoLIDAdapterApply", "LoraLoaderModelOnly"):
        found.append(api[source[0]]["inputs"])
        source = found[-1]["model"]
    return [given for given in reversed(found) if "adapter" in given]


def photos(api: Api, link: list[Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Inputs of the pooling and of the encoder behind an embeds link."""
    pooling = api[link[0]]["inputs"]
    return pooling, api[pooling["references"][0]]["inputs"]


# All of them


def test_every_old_node_is_converted_somewhere():
    seen = {
        old_type
        for api in GRAPHS.values()
        for given in api.values()
        for old_type, slots in old_graphs.OLD.items()
        if old_graphs.slots_of(given) is slots
    }
    not_converted = {"IPAdapterLoadEmbeds", "IPAdapterWeights", "IPAdapterTiledBatch", "ApplyPulid", "DWPreprocessor"}
    assert seen == set(old_graphs.OLD) - not_converted


@pytest.mark.parametrize("name", GRAPHS)
def test_comfyui_takes_the_converted_graph(name: str, converted, comfyui):
    new, report = converted(GRAPHS[name])
    assert report.complete and report.changed
    assert not {given["class_type"] for given in new.values()} & set(old_graphs.OLD)
    assert comfyui(new) == []


@pytest.mark.parametrize("widgets", [False, True])
@pytest.mark.parametrize("name", GRAPHS)
def test_both_forms_become_the_same_graph(name: str, widgets: bool, converted):
    new_api, api_report = converted(GRAPHS[name])
    new_ui, ui_report = converted(ui_form(GRAPHS[name], converted_widgets=widgets))
    assert api_form(new_ui) == new_api
    assert [(str(entry.id), entry.status, entry.notes) for entry in ui_report.entries] == [
        (str(entry.id), entry.status, entry.notes) for entry in api_report.entries
    ]
    check_ui(new_ui)


@pytest.mark.parametrize("form", ["api", "ui"])
@pytest.mark.parametrize("name", GRAPHS)
def test_the_rest_of_the_graph_stays_as_it_was(name: str, form: str, converted):
    old = GRAPHS[name]
    if form == "api":
        new, _ = converted(old)
        assert only(new, "KSampler")["seed"] == SEED
        before, after = old, new
    else:
        before_ui = ui_form(old)
        after_ui, _ = converted(before_ui)
        kept = {key: before_ui[key] for key in ("groups", "config", "extra", "version")}
        assert {key: after_ui[key] for key in kept} == kept
        before = {entry["id"]: without_links(entry) for entry in before_ui["nodes"]}
        after = {entry["id"]: without_links(entry) for entry in after_ui["nodes"]}
        assert next(entry for entry in after_ui["nodes"] if entry["type"] == "KSampler")["widgets_values"][0] == SEED
    for node_id, given in before.items():
        if (given.get("class_type") or given["type"]) in old_graphs.OLD:
            assert node_id not in after
        elif form == "ui":
            assert after[node_id] == given
        else:
            same = {
                key: value
                for key, value in given["inputs"].items()
                if not isinstance(value, list) or old[value[0]]["class_type"] not in old_graphs.OLD
            }
            assert after[node_id]["class_type"] == given["class_type"]
            assert same.items() <= after[node_id]["inputs"].items()
            assert list(after[node_id]["inputs"]) == list(given["inputs"])


def without_links(entry: dict[str, Any]) -> dict[str, Any]:
    entry = copy.deepcopy(entry)
    for output in entry["outputs"]:
        del output["links"]
    for given in entry["inputs"]:
        given["link"] = given["link"] is not None
    return entry


def check_ui(document: dict[str, Any]) -> None:
    """Links and nodes name one another, and added nodes overlap nothing."""
    nodes = {entry["id"]: entry for entry in document["nodes"]}
    assert len(nodes) == len(document["nodes"])
    ids = [link[0] for link in document["links"]]
    assert len(set(ids)) == len(ids)
    assert document["last_node_id"] >= max(nodes) and document["last_link_id"] >= max(ids, default=0)
    for link_id, origin, slot, target, target_slot, type_ in document["links"]:
        assert link_id in nodes[origin]["outputs"][slot]["links"]
        assert nodes[target]["inputs"][target_slot]["link"] == link_id
        given = nodes[target]["inputs"][target_slot]["type"]
        assert type_ in given.split(",") or given == "*", (nodes[target]["type"], given, type_)
    held = [link for entry in nodes.values() for output in entry["outputs"] for link in output["links"] or ()]
    assert sorted(held) == sorted(ids)
    linked = [given["link"] for entry in nodes.values() for given in entry["inputs"] if given["link"] is not None]
    assert sorted(linked) == sorted(ids)
    new = [entry for entry in nodes.values() if isinstance(entry["size"], list)]
    for one, other in itertools.product(new, nodes.values()):
        assert one is other or not overlap(one, other)


def overlap(one: dict[str, Any], other: dict[str, Any]) -> bool:
    def box(entry):
        size = entry["size"] if isinstance(entry["size"], list) else [entry["size"]["0"], entry["size"]["1"]]
        return entry["pos"][0], entry["pos"][1] - 30, entry["pos"][0] + size[0], entry["pos"][1] + size[1]

    (left, top, right, bottom), (x0, y0, x1, y1) = box(one), box(other)
    return left < x1 and x0 < right and top < y1 and y0 < bottom


def api_form(document: dict[str, Any]) -> Api:
    """What the frontend sends for a graph: values by name, by the table that test_kinds holds to the schemas."""
    links = {link[0]: [str(link[1]), link[2]] for link in document["links"]}
    placed = {kind.type: kind for kind in PLACED}
    api: Api = {}
    for entry in document["nodes"]:
        linked = {given["name"]: links[given["link"]] for given in entry["inputs"] if given["link"] is not None}
        if entry["type"] in old_graphs.OTHERS:
            names = old_graphs.OTHERS[entry["type"]].widgets
        else:
            names = tuple(placed[entry["type"]].widgets)
        values = dict(zip(names, entry.get("widgets_values", ()), strict=True))
        values = {name: value for name, value in values.items() if name not in old_graphs.EXTRA_WIDGETS}
        api[str(entry["id"])] = node(entry["type"], **(values | linked))
    return api


# One by one


def test_a_plain_adapter(converted):
    new, report = converted(graph({"10": loader("plus-face_sd15.bin"), "11": advanced()}, model=["11", 0]))
    (apply,) = applied(new)
    assert only(new, "BoLIDAdapterLoader")["adapter_name"] == "plus-face_sd15.bin"
    assert (apply["face_weight"], apply["start_percent"], apply["end_percent"]) == (0.8, 0.0, 1.0)
    assert apply["skip_middle"] is True and apply["weight_type"] == "linear"
    assert "lora_strength" not in apply or apply["lora_strength"] == 1.0
    pooling, encoder = photos(new, apply["face"])
    assert pooling["method"] == "stack"
    assert encoder == {"images": ["6", 0], "clip_vision": ["2", 0], "crop": "whole", "on_missing": "skip"}
    assert entries(report)["11"].status is Status.SAME
    assert "skip_middle is on" in report.remarks[0]


def test_plus_adapters_saw_black_on_the_unconditional_side(converted):
    new, _ = converted(graph({"10": loader("ip-adapter-plus_sd15.bin"), "11": advanced()}, model=["11", 0]))
    _, encoder = photos(new, applied(new)[0]["face_negative"])
    assert new[encoder["images"][0]] == node("EmptyImage", width=224, height=224, batch_size=1, color=0)
    new, _ = converted(graph({"10": loader("ip-adapter_sd15.bin"), "11": advanced()}, model=["11", 0]))
    assert "face_negative" not in applied(new)[0] and not of_type(new, "EmptyImage")
    new, report = converted(graph({"10": loader("mine.bin"), "11": advanced()}, model=["11", 0]))
    assert "face_negative" not in applied(new)[0]
    assert entries(report)["11"].status is Status.DIFFERS and "mine.bin does not tell" in entries(report)["11"].notes[0]


def test_older_pictures_have_the_middle_block(converted):
    old = graph({"10": loader(), "11": advanced()}, model=["11", 0])
    new, report = converted(old, middle_block=True)
    assert applied(new)[0]["skip_middle"] is False
    assert "before 13 September 2024" in report.remarks[0]
    new, _ = converted(GRAPHS["first apply"])
    assert applied(new)[0]["skip_middle"] is False


@pytest.mark.parametrize(
    ("method", "expected", "status"),
    [
        ("concat", "stack", Status.SAME),
        ("average", "avg", Status.SAME),
        ("norm average", "normalised_avg", Status.DIFFERS),
        ("add", "avg", Status.DIFFERS),
        ("subtract", None, Status.STAYS),
    ],
)
def test_ways_to_combine_photos(method: str, expected: str | None, status: Status, converted):
    nodes = {
        "20": node("ImageBatch", image1=["6", 0], image2=["6", 0]),
        "10": loader(),
        "11": advanced(image=["20", 0], combine_embeds=method),
    }
    new, report = converted(graph(nodes, model=["11", 0]))
    assert entries(report)["11"].status is status
    if expected is None:
        assert only(new, "IPAdapterAdvanced")["image"] == ["20", 0] and not report.complete
    else:
        assert photos(new, applied(new)[0]["face"])[0]["method"] == expected
    # With one photo all of them are the same.
    nodes["11"]["inputs"]["image"] = ["6", 0]
    _, report = converted(graph(nodes, model=["11", 0]))
    assert entries(report)["11"].status is Status.SAME


@pytest.mark.parametrize("scaling", ["V only", "K+V", "K+V w/ C penalty", "K+mean(V) w/ C penalty"])
@pytest.mark.parametrize("weight_type", ["linear", "ease in-out", "strong style transfer", "composition precise"])
def test_names_that_both_packs_have(weight_type: str, scaling: str, converted):
    changes = {"weight_type": weight_type, "embeds_scaling": scaling}
    new, _ = converted(graph({"10": loader(), "11": advanced(**changes)}, model=["11", 0]))
    (apply,) = applied(new)
    assert (apply["weight_type"], apply["embeds_scaling"]) == (weight_type, scaling)


def test_the_mean_of_several_photos(converted):
    nodes = {"10": loader(), "11": advanced(embeds_scaling="K+mean(V) w/ C penalty")}
    _, report = converted(graph(nodes, model=["11", 0]))
    assert entries(report)["11"].status is Status.SAME
    nodes["20"] = node("ImageBatch", image1=["6", 0], image2=["6", 0])
    nodes["11"]["inputs"]["image"] = ["20", 0]
    _, report = converted(graph(nodes, model=["11", 0]))
    assert entries(report)["11"].status is Status.DIFFERS


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"weight_type": "style transfer (SDXL)"}, [("style transfer", 0.8)]),
        ({"weight_type": "composition (SDXL)"}, [("composition", 0.8)]),
        # There the composition had the weight 1 whatever the style's was.
        ({"weight_type": "style and composition"}, [("style transfer", 0.8), ("composition", 1.0)]),
        ({"weight_type": "style and composition", "weight": 1.0}, [("style and composition", 1.0)]),
        ({"weight_type": "style and composition", "start_at": 1.0, "end_at": 0.0}, [("style transfer", 0.0)] * 1),
        ({"weight": 4.5}, [("linear", 3.0)]),
    ],
)
def test_weights(given: dict[str, Any], expected: list[tuple[str, float]], converted):
    new, report = converted(graph({"10": loader(), "11": advanced(**given)}, model=["11", 0]))
    found = [(apply["weight_type"], apply["face_weight"]) for apply in applied(new)]
    assert found[: len(expected)] == expected
    if "start_at" in given:
        assert {weight for _, weight in found} == {0.0}
        assert all(apply["start_percent"] <= apply["end_percent"] for apply in applied(new))
    assert (entries(report)["11"].status is Status.DIFFERS) == (given.get("weight", 0) > 3)


@pytest.mark.parametrize(
    ("boost", "expected"),
    [
        (0.0, [("style transfer", 0.8)]),
        (0.8, [("style transfer precise", 0.8)]),
        (0.3, [("style transfer precise", 0.3), ("style transfer", 0.5)]),
        (1.0, [("style transfer precise", 1.0), ("style transfer", -0.2)]),
    ],
)
def test_boosts_are_two_adapters(boost: float, expected: list[tuple[str, float]], converted):
    old = graph({"10": loader(), "11": advanced("IPAdapterPreciseStyleTransfer", style_boost=boost)}, model=["11", 0])
    new, report = converted(old)
    assert [(apply["weight_type"], apply["face_weight"]) for apply in applied(new)] == expected
    assert entries(report)["11"].status is Status.SAME
    old["11"]["inputs"]["embeds_scaling"] = "K+V"
    _, report = converted(old)
    assert (entries(report)["11"].status is Status.DIFFERS) == (len(expected) == 2)


def test_style_and_composition_are_two_adapters(converted):
    new, report = converted(GRAPHS["style and composition"])
    style, composition = applied(new)
    assert (style["weight_type"], style["face_weight"]) == ("strong style transfer", 1.2)
    assert (composition["weight_type"], composition["face_weight"]) == ("composition", 0.6)
    assert photos(new, style["face"])[1]["images"] == ["6", 0]
    assert photos(new, composition["face"])[1]["images"] == ["20", 0]
    assert report.files == ["ip-adapter-plus_sdxl_vit-h.safetensors"]


def test_regions_are_adapters_with_masks_and_masked_prompts(converted):
    new, report = converted(GRAPHS["regions"])
    first, second = applied(new)
    assert first["attn_mask"] == second["attn_mask"] == ["20", 0]
    assert {apply["embeds_scaling"] for apply in (first, second)} == {"K+V"}
    assert (first["weight_type"], first["face_weight"], first["end_percent"]) == ("ease out", 0.7, 0.8)
    masked = of_type(new, "ConditioningSetMask")
    assert [given["conditioning"] for given in masked] == [["3", 0], ["4", 0], ["3", 0]]
    assert all((given["mask"], given["strength"]) == (["20", 0], 0.9) for given in masked)
    combined = only(new, "ConditioningCombine")
    assert new[combined["conditioning_1"][0]]["class_type"] == "ConditioningSetMask"
    assert new[only(new, "KSampler")["negative"][0]]["inputs"]["conditioning"] == ["4", 0]
    assert {entry.status for entry in report.entries} == {Status.SAME}


def test_a_region_without_mask_passes_its_prompts_on(converted):
    old = copy.deepcopy(GRAPHS["regions"])
    for number in ("21", "22"):
        del old[number]["inputs"]["mask"]
    new, _ = converted(old)
    assert only(new, "ConditioningCombine") == {"conditioning_1": ["3", 0], "conditioning_2": ["3", 0]}
    assert only(new, "KSampler")["negative"] == ["4", 0]
    assert not any("attn_mask" in apply for apply in applied(new))


def test_embeds_become_photos_again(converted):
    new, report = converted(GRAPHS["embeds"])
    (apply,) = applied(new)
    pooling, encoder = photos(new, apply["face"])
    assert pooling["method"] == "avg" and pooling["photo_weights"] == ""
    assert new[encoder["images"][0]] == node("CreateList", **{f"inputs.input{n}": ["6", 0] for n in range(2)})
    assert encoder["clip_vision"] == ["2", 0], "the loader that is there already is used"
    saved = only(new, "BoLIDSaveEmbeds")
    assert saved == {"embeds": apply["face"], "filename_prefix": "anna"}
    assert {entry.status for entry in report.entries} == {Status.SAME}


def test_weights_of_encoders(converted):
    old = copy.deepcopy(GRAPHS["embeds"])
    old["22"]["inputs"]["weight"] = 0.5
    new, report = converted(old)
    assert photos(new, applied(new)[0]["face"])[0]["photo_weights"] == "1, 0.5"
    assert entries(report)["11"].status is Status.DIFFERS
    old["21"]["inputs"]["image"] = old["22"]["inputs"]["image"] = ["20", 0]
    old["20"] = node("ImageBatch", image1=["6", 0], image2=["6", 0])
    new, report = converted(old)
    assert photos(new, applied(new)[0]["face"])[0]["photo_weights"] == ""
    assert "how many photos" in entries(report)["11"].notes[0]
    old["22"]["inputs"]["weight"] = -1.0
    _, report = converted(old)
    assert entries(report)["11"].status is Status.STAYS


def test_embeds_of_pictures_to_lead_away_from(converted):
    old = copy.deepcopy(GRAPHS["embeds"])
    old["11"]["inputs"]["neg_embed"] = ["22", 0]
    new, _ = converted(old)
    assert photos(new, applied(new)[0]["face_negative"])[1]["images"] == ["6", 0]


def test_negative_pictures_and_noise(converted):
    new, report = converted(GRAPHS["prepared"])
    (apply,) = applied(new)
    _, negative = photos(new, apply["face_negative"])
    noise = new[negative["images"][0]]
    assert noise["class_type"] == "BoLIDNoiseReference"
    assert {key: noise["inputs"][key] for key in ("kind", "strength", "blur")} == {
        "kind": "shuffle",
        "strength": 0.5,
        "blur": 4,
    }
    assert entries(report)["24"].status is Status.DIFFERS
    new, _ = converted(GRAPHS["first apply"])
    _, negative = photos(new, applied(new)[0]["face_negative"])
    noise = new[negative["images"][0]]["inputs"]
    assert (noise["kind"], noise["strength"], noise["images"]) == ("shuffle", 0.7, ["6", 0])


def test_prepared_pictures(converted):
    new, report = converted(GRAPHS["prepared"])
    (pad,) = of_type(new, "ResizeAndPadImage")
    assert (pad["target_width"], pad["padding_color"], pad["interpolation"]) == (224, "black", "lanczos")
    bicubic = next(given for given in of_type(new, "ImageScale") if given["upscale_method"] == "bicubic")
    assert (bicubic["image"], bicubic["width"], bicubic["crop"]) == (["6", 0], 224, "center")
    crop = only(new, "ImageCropV2")
    first = new[crop["image"][0]]["inputs"]
    assert (first["width"], first["height"], first["crop"]) == (672, 0, "disabled")
    assert only(new, "PrimitiveBoundingBox") == {"x": 0, "y": 0, "width": 672, "height": 672}
    assert entries(report)["20"].status is entries(report)["21"].status is Status.DIFFERS
    old = copy.deepcopy(GRAPHS["prepared"])
    old["22"]["inputs"]["crop_position"] = "bottom"
    new, report = converted(old)
    assert entries(report)["22"].status is Status.STAYS and new["22"]["class_type"] == "PrepImageForClipVision"
    assert entries(report)["11"].status is Status.SAME


def test_a_photo_per_picture(converted):
    new, _ = converted(GRAPHS["batch"])
    assert photos(new, applied(new)[0]["face"])[0]["method"] == "per_picture"
    old = graph(
        {"10": loader(), "11": advanced("IPAdapterApply", weight_type="original", unfold_batch=True)}, model=["11", 0]
    )
    new, _ = converted(old)
    assert photos(new, applied(new)[0]["face"])[0]["method"] == "per_picture"


def test_tiles(converted):
    new, report = converted(GRAPHS["tiled"])
    assert photos(new, applied(new)[0]["face"])[1]["crop"] == "tiles"
    preview = only(new, "PreviewImage")["images"]
    assert new[preview[0]]["class_type"] == "MultiRefImageEncoder" and preview[1] == 1
    assert entries(report)["11"].status is Status.DIFFERS
    old = copy.deepcopy(GRAPHS["tiled"])
    old["21"] = node("MaskToImage", mask=["11", 2])
    assert entries(converted(old)[1])["11"].status is Status.STAYS


# FaceID


def test_faceid_with_loaders_of_its_own(converted):
    new, report = converted(GRAPHS["faceid with loaders"])
    (apply,) = applied(new)
    assert apply["lora_strength"] == 0.0 and apply["model"] == ["21", 0], "the graph's own LoRA stays"
    assert only(new, "LoraLoaderModelOnly")["strength_model"] == 0.6
    _, encoder = photos(new, apply["face"])
    assert (encoder["crop"], encoder["on_missing"]) == ("face", "error")
    assert only(new, "BoLIDFaceAnalysisLoader") == {"model_pack": "antelopev2", "provider": "CUDA"}
    assert only(new, "BoLIDAdapterLoader")["faceid_plus_version"] == "v2"
    preview = only(new, "PreviewImage")["images"]
    assert new[preview[0]]["inputs"] == encoder and preview[1] == 1
    _, black = photos(new, apply["face_negative"])
    assert (black["crop"], black["on_missing"]) == ("whole", "skip") and "face_analysis" not in black
    assert new[black["images"][0]]["class_type"] == "EmptyImage"
    assert entries(report)["11"].status is Status.SAME


def test_the_lora_of_a_unified_loader_comes_once(converted):
    new, report = converted(GRAPHS["chained"])
    faceid, face = applied(new)
    assert faceid["lora_strength"] == 0.6 and "lora_strength" in faceid
    assert (face["weight_type"], face["face_weight"], face["start_percent"]) == ("ease out", 0.35, 0.1)
    assert [given["adapter_name"] for given in of_type(new, "BoLIDAdapterLoader")] == [
        "ip-adapter-faceid-plusv2_sd15.bin",
        "ip-adapter-plus-face_sd15.safetensors",
    ]
    assert only(new, "BoLIDFaceAnalysisLoader")["provider"] == "CPU"
    assert any("OpenVINO" in note for note in entries(report)["10"].notes)
    old = copy.deepcopy(GRAPHS["chained"])
    old["14"] = copy.deepcopy(old["11"])
    old["14"]["inputs"]["model"] = ["11", 0]
    old["12"]["inputs"]["model"] = ["14", 0]
    new, _ = converted(old)
    assert [apply.get("lora_strength") for apply in applied(new)][:2] == [0.6, 0.0]
    assert len(of_type(new, "MultiRefImageEncoder")) == 3, "the same photos are encoded once"


def test_a_lora_that_reached_the_sampler_by_another_way(converted):
    old = copy.deepcopy(GRAPHS["chained"])
    old["14"] = node("KSampler", **(old["7"]["inputs"] | {"model": ["10", 0]}))
    _, report = converted(old)
    assert entries(report)["10"].status is Status.DIFFERS
    assert any("by other ways" in note for note in entries(report)["10"].notes)


@pytest.mark.parametrize(
    ("weight", "version", "status"),
    [(1.0, "v2", Status.SAME), (2.0, "v2", Status.DIFFERS)],
)
def test_the_weight_of_the_likeness(weight: float, version: str, status: Status, converted):
    old = copy.deepcopy(GRAPHS["faceid with loaders"])
    old["11"]["inputs"]["weight_faceidv2"] = weight
    new, report = converted(old)
    notes = " ".join(entries(report)["11"].notes)
    assert ("weight_faceidv2 (2)" in notes) == (weight == 2)
    assert only(new, "BoLIDAdapterLoader")["faceid_plus_version"] == version
    assert entries(report)["11"].status is status


def test_versions_of_faceid_plus(converted):
    new, _ = converted(GRAPHS["first faceid"])
    assert only(new, "BoLIDAdapterLoader")["faceid_plus_version"] == "v1"
    assert only(new, "BoLIDFaceAnalysisLoader") == {"model_pack": "buffalo_l", "provider": "ROCM"}


def test_portraits_need_no_image_encoder(converted):
    new, report = converted(GRAPHS["faceid portrait"])
    _, encoder = photos(new, applied(new)[0]["face"])
    assert "clip_vision" not in encoder
    assert entries(report)["11"].status is Status.SAME
    assert report.files == ["ip-adapter-faceid-portrait_sdxl.bin"]


def test_insightface_of_an_unknown_loader_is_taken_as_it_is(converted):
    old = copy.deepcopy(GRAPHS["faceid with loaders"])
    old["20"] = node("SomeInsightFaceLoader")
    new, _ = converted(old)
    assert photos(new, applied(new)[0]["face"])[1]["face_analysis"] == ["20", 0]


# Unified loaders


@pytest.mark.parametrize(
    ("preset", "sd15", "sdxl"),
    [
        ("LIGHT - SD1.5 only (low strength)", "ip-adapter_sd15_light_v11.bin", None),
        ("STANDARD (medium strength)", "ip-adapter_sd15.safetensors", "ip-adapter_sdxl_vit-h.safetensors"),
        ("VIT-G (medium strength)", "ip-adapter_sd15_vit-G.safetensors", "ip-adapter_sdxl.safetensors"),
        ("PLUS (high strength)", "ip-adapter-plus_sd15.safetensors", "ip-adapter-plus_sdxl_vit-h.safetensors"),
        (
            "PLUS FACE (portraits)",
            "ip-adapter-plus-face_sd15.safetensors",
            "ip-adapter-plus-face_sdxl_vit-h.safetensors",
        ),
        ("FULL FACE - SD1.5 only (portraits stronger)", "ip-adapter-full-face_sd15.safetensors", None),
    ],
)
def test_presets(preset: str, sd15: str, sdxl: str | None, converted):
    old = graph({"10": unified(preset), "11": advanced(model=["10", 0], ipadapter=["10", 1])}, model=["11", 0])
    del old["11"]["inputs"]["clip_vision"], old["2"]
    for base, file in (("sd15", sd15), ("sdxl", sdxl)):
        new, report = converted(old, base_model=base)
        if file is None:
            assert "has no file for sdxl" in entries(report)["10"].notes[0] and not report.changed
            continue
        assert only(new, "BoLIDAdapterLoader")["adapter_name"] == file
        encoder = "CLIP-ViT-bigG-14-laion2B-39B-b160k.safetensors" if "VIT-G" in preset else VIT_H
        assert only(new, "CLIPVisionLoader")["clip_name"] == encoder
        assert report.files == [file, encoder]
        assert applied(new)[0]["model"] == ["1", 0]


@pytest.mark.parametrize(
    ("checkpoint", "size", "expected"),
    [
        ("realisticVision_v1.5.safetensors", 1024, "sd15"),
        ("juggernautXL_v9.safetensors", 512, "sdxl"),
        ("mine.safetensors", 1024, "sdxl"),
        ("mine.safetensors", 512, "sd15"),
        ("mine.safetensors", 800, None),
    ],
)
def test_the_base_model_is_guessed_or_asked_for(checkpoint: str, size: int, expected: str | None, converted):
    old = graph(
        {"10": unified(), "11": advanced(model=["10", 0], ipadapter=["10", 1])}, model=["11", 0], checkpoint=checkpoint
    )
    old["5"]["inputs"].update(width=size, height=size)
    new, report = converted(old)
    if expected is None:
        assert not report.changed and "--base-model" in entries(report)["10"].notes[0]
        assert "node 10 (IPAdapterUnifiedLoader)" in entries(report)["11"].notes[0]
        new, report = converted(old, base_model="sdxl")
        assert report.complete
    else:
        assert expected in only(new, "BoLIDAdapterLoader")["adapter_name"]
        assert entries(report)["10"].notes[0].startswith(f"{expected} by ")


@pytest.mark.parametrize(
    ("type_", "preset"),
    [
        ("IPAdapterUnifiedLoaderCommunity", "Kolors"),
        ("IPAdapterUnifiedLoaderFaceID", "FACEID PORTRAIT UNNORM - SDXL only (strong)"),
    ],
)
def test_presets_without_counterpart(type_: str, preset: str, converted):
    old = graph({"10": unified(preset, type_), "11": advanced(model=["10", 0], ipadapter=["10", 1])}, model=["11", 0])
    new, report = converted(old)
    assert new == old and not report.changed and not report.complete
    assert preset in entries(report)["10"].notes[0]


# What stays


@pytest.mark.parametrize(
    ("type_", "reason"),
    [("ApplyPulid", "PuLID is another method"), ("SomeIPAdapterThing", "not known")],
)
def test_other_methods_stay_and_are_named(type_: str, reason: str, converted):
    old = graph({"10": loader(), "11": advanced(), "12": node(type_, model=["11", 0])}, model=["12", 0])
    new, report = converted(old)
    assert report.changed and not report.complete
    assert reason in entries(report)["12"].notes[0]
    assert new[new["12"]["inputs"]["model"][0]]["class_type"] == "BoLIDAdapterApply"


def test_pose_nodes_stay_because_they_fit(converted):
    old = graph({"10": loader(), "11": advanced(), "12": node("DWPreprocessor", image=["6", 0])}, model=["11", 0])
    _, report = converted(old)
    assert entries(report)["12"].status is Status.FITS and report.complete


def test_weights_per_frame_stay(converted):
    old = graph(
        {
            "10": loader(),
            "20": node("IPAdapterWeights", weights="1, 0", timing="linear"),
            "11": advanced("IPAdapterBatch", weight=["20", 0]),
        },
        model=["11", 0],
    )
    new, report = converted(old)
    assert new == old and {entry.id for entry in report.entries} == {"10", "11", "20"}


def test_a_node_of_the_same_name_in_another_pack_stays(converted):
    """The first pack of 2023 called its only node IPAdapter."""
    old = graph(
        {"11": node("IPAdapter", model=["1", 0], image=["6", 0], clip_vision=["2", 0], weight=1.0)}, model=["11", 0]
    )
    new, report = converted(old)
    assert new == old and "ipadapter" in entries(report)["11"].notes[0]


def test_a_loader_that_is_still_needed_stays_beside_the_new_one(converted):
    nodes = {
        "10": unified("FACEID", "IPAdapterUnifiedLoaderFaceID", lora_strength=0.6, provider="CPU"),
        "11": advanced("IPAdapterFaceID", model=["10", 0], ipadapter=["10", 1]),
        "12": advanced("IPAdapterFaceID", model=["11", 0], ipadapter=["10", 1], weight_type="something"),
    }
    new, report = converted(graph(nodes, model=["12", 0]))
    assert entries(report)["10"].status is Status.STAYS and "nodes that stay" in entries(report)["10"].notes[0]
    assert new["10"]["class_type"] == "IPAdapterUnifiedLoaderFaceID"
    apply = new[new["12"]["inputs"]["model"][0]]["inputs"]
    assert apply["model"] == ["10", 0] and apply["lora_strength"] == 0.0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"weight": "strong"}, "weight is 'strong'"),
        ({"weight_type": "something"}, "weight_type 'something'"),
        ({"combine_embeds": "something"}, "'something'"),
        ({"embeds_scaling": "something"}, "embeds_scaling 'something'"),
        ({"weight_type": ["20", 0]}, "weight_type comes from another node"),
        ({"ipadapter": ["20", 0]}, "node 20 (Other)"),
    ],
)
def test_settings_that_no_version_has(changes: dict[str, Any], reason: str, converted):
    old = graph({"20": node("Other"), "10": loader(), "11": advanced(**changes)}, model=["11", 0])
    new, report = converted(old)
    assert new["11"] == old["11"] and reason in entries(report)["11"].notes[0]


def test_a_graph_without_old_nodes_is_left_alone(converted):
    old = graph({}, model=["1", 0])
    new, report = converted(old)
    assert new == old and report.complete and not report.changed and report.untouched == len(old)


def test_loaders_that_nothing_reads(converted):
    old = graph({"10": loader(), "12": unified("STANDARD (medium strength)")}, model=["12", 0], checkpoint=SDXL)
    new, report = converted(old)
    assert only(new, "KSampler")["model"] == ["1", 0]
    assert [given["adapter_name"] for given in of_type(new, "BoLIDAdapterLoader")] == [
        "ip-adapter_sd15.safetensors",
        "ip-adapter_sdxl_vit-h.safetensors",
    ]
    assert report.complete and SD15 not in report.files
