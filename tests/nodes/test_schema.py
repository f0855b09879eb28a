"""What graphs in the wild depend on: node ids, input ids, types, what may be left out."""

from __future__ import annotations

import asyncio
import inspect

import folder_paths
import pytest
from comfy_api.v0_0_2 import io

from bolid import comfy_entrypoint
from bolid.nodes import NODES, BolidExtension

FLOAT, STRING, BOOLEAN, COMBO = "FLOAT", "STRING", "BOOLEAN", "COMBO"
FACE_ANALYSIS = "BOLID_FACE_ANALYSIS,FACE_DETECTION_MODEL,INSIGHTFACE,FACEANALYSIS"

# Names are public (product.md): required inputs, optional inputs, outputs; widgets in this order, because a workflow
# stores their values by position. New ones may follow, none may go.
CONTRACTS: dict[str, tuple[dict[str, str], dict[str, str], dict[str, str]]] = {
    "BoLIDLoadReferences": ({"folder": STRING, "files": STRING}, {}, {"images": "IMAGE"}),
    "MultiRefImageEncoder": (
        {"images": "IMAGE", "crop": COMBO, "on_missing": COMBO},
        {"clip_vision": "CLIP_VISION", "face_analysis": FACE_ANALYSIS, "face_choice": COMBO, "face_index": STRING},
        {"references": "BOLID_REFERENCES", "crops": "IMAGE", "report": STRING},
    ),
    "PoolingAggregator": (
        {"references": "BOLID_REFERENCES", "method": COMBO},
        {"photo_weights": STRING, "rescale_norm": BOOLEAN},
        {"embeds": "BOLID_EMBEDS", "report": STRING},
    ),
    "SelfAttnAggregator": (
        {"references": "BOLID_REFERENCES", "adapter": "BOLID_ADAPTER"},
        {"fill_seed": "INT"},
        {"embeds": "BOLID_EMBEDS", "report": STRING},
    ),
    "BodyLandmarkEncoder": (
        {"images": "IMAGE", "min_visibility": FLOAT, "on_missing": COMBO},
        {
            "clip_vision": "CLIP_VISION",
            "pose_keypoint": "POSE_KEYPOINT",
            "target_pose": "POSE_KEYPOINT,IMAGE",
            "person_index": "INT",
            "pose_model": COMBO,
        },
        {"body": "BOLID_BODY", "preview": "IMAGE", "pose_keypoint": "POSE_KEYPOINT", "report": STRING},
    ),
    "BoLIDDetectFaces": (
        {"images": "IMAGE"},
        {"face_analysis": FACE_ANALYSIS, "face_choice": COMBO},
        {"images": "IMAGE", "faces": "IMAGE", "report": STRING},
    ),
    "BoLIDSaveEmbeds": (
        {"embeds": "BOLID_EMBEDS,BOLID_REFERENCES", "filename_prefix": STRING},
        {"person": STRING},
        {"file": STRING},
    ),
    "BoLIDLoadEmbeds": (
        {"file": COMBO},
        {},
        {"embeds": "BOLID_EMBEDS", "references": "BOLID_REFERENCES", "report": STRING},
    ),
    "BoLIDNoiseReference": (
        {"kind": COMBO, "strength": FLOAT, "blur": "INT"},
        {"images": "IMAGE", "pattern_seed": "INT", "size": "INT"},
        {"images": "IMAGE"},
    ),
    "BoLIDFaceAnalysisLoader": ({"model_pack": COMBO, "provider": COMBO}, {}, {"face_analysis": "BOLID_FACE_ANALYSIS"}),
    "BoLIDAdapterLoader": ({"adapter_name": COMBO}, {"faceid_plus_version": COMBO}, {"adapter": "BOLID_ADAPTER"}),
    "BoLIDAdapterApply": (
        {
            "model": "MODEL",
            "adapter": "BOLID_ADAPTER",
            "face_weight": FLOAT,
            "start_percent": FLOAT,
            "end_percent": FLOAT,
        },
        {
            "face": "BOLID_EMBEDS",
            "attn_mask": "MASK",
            "weight_type": COMBO,
            "layer_weights": STRING,
            "embeds_scaling": COMBO,
            "skip_middle": BOOLEAN,
            "lora_strength": FLOAT,
            "body": "BOLID_BODY",
            "body_weight": FLOAT,
            "body_start_percent": FLOAT,
            "body_end_percent": FLOAT,
            "body_attn_mask": "MASK",
            "body_weight_type": COMBO,
            "body_layer_weights": STRING,
            "weight_schedule": COMBO,
            "body_weight_schedule": COMBO,
            "face_negative": "BOLID_EMBEDS",
        },
        {"model": "MODEL"},
    ),
    "BoLIDRegion": (
        {"model": "MODEL", "adapter": "BOLID_ADAPTER", "positive": "CONDITIONING", "mask": "MASK"},
        {
            "prompt": "CONDITIONING",
            "face": "BOLID_EMBEDS",
            "body": "BOLID_BODY",
            "face_weight": FLOAT,
            "body_weight": FLOAT,
            "prompt_strength": FLOAT,
            "start_percent": FLOAT,
            "end_percent": FLOAT,
        },
        {"model": "MODEL", "positive": "CONDITIONING"},
    ),
    "BoLIDRankImages": (
        {"images": "IMAGE", "by": COMBO, "keep": "INT"},
        {
            "references": "BOLID_REFERENCES",
            "clip_vision": "CLIP_VISION",
            "face_analysis": FACE_ANALYSIS,
            "crop": COMBO,
            "clip": "CLIP",
            "prompt": STRING,
            "target_pose": "POSE_KEYPOINT,IMAGE,BOLID_BODY",
            "pose_keypoint": "POSE_KEYPOINT",
            "min_visibility": FLOAT,
            "pose_model": COMBO,
            "aesthetic_model": COMBO,
        },
        {"images": "IMAGE", "scores": STRING},
    ),
    "BoLIDDemoModelLoader": (
        {"method": COMBO},
        {},
        {"model": "MODEL", "clip": "CLIP", "vae": "VAE", "clip_vision": "CLIP_VISION", "adapter": "BOLID_ADAPTER"},
    ),
    "BoLIDDemoPhotos": ({"person": COMBO, "first": "INT", "count": "INT"}, {}, {"images": "IMAGE"}),
    "BoLIDDemoPoseDetector": (
        {"images": "IMAGE"},
        {},
        {"pose_keypoint": "POSE_KEYPOINT", "preview": "IMAGE"},
    ),
}
FACE_CHOICES = ["largest", "most_central", "left_to_right", "right_to_left", "top_to_bottom"]
COMBOS = {
    ("MultiRefImageEncoder", "crop"): ["whole", "face", "person", "tiles"],
    ("MultiRefImageEncoder", "face_choice"): FACE_CHOICES,
    ("BoLIDDetectFaces", "face_choice"): FACE_CHOICES,
    ("BoLIDNoiseReference", "kind"): ["fade", "dissolve", "gaussian", "shuffle"],
    ("MultiRefImageEncoder", "on_missing"): ["skip", "error", "whole"],
    ("PoolingAggregator", "method"): ["avg", "max", "normalised_avg", "median", "stack", "per_picture"],
    ("BoLIDAdapterApply", "weight_type"): [
        "linear",
        "ease in",
        "ease out",
        "ease in-out",
        "reverse in-out",
        "weak input",
        "weak middle",
        "weak output",
        "strong middle",
        "style transfer",
        "composition",
        "strong style transfer",
        "style and composition",
        "style transfer precise",
        "composition precise",
    ],
    ("BoLIDAdapterApply", "weight_schedule"): [
        "constant",
        "ramp up",
        "ramp down",
        "ease in",
        "ease out",
        "ease in-out",
        "reverse in-out",
    ],
    ("BodyLandmarkEncoder", "on_missing"): ["skip", "error", "whole"],
    ("BodyLandmarkEncoder", "pose_model"): ["bundled"],
    ("BoLIDRankImages", "by"): ["identity", "text", "pose", "aesthetic"],
    ("BoLIDRankImages", "crop"): ["whole", "face", "person"],
    ("BoLIDRankImages", "pose_model"): ["bundled"],
    ("BoLIDDemoModelLoader", "method"): ["ip_adapter", "self_attention", "bolid"],
    ("BoLIDDemoPhotos", "person"): ["person_802", "person_806", "person_807", "person_809", "person_811"],
}
ADVANCED = {
    "attn_mask",
    "weight_type",
    "layer_weights",
    "embeds_scaling",
    "skip_middle",
    "lora_strength",
    "body_start_percent",
    "body_end_percent",
    "body_attn_mask",
    "body_weight_type",
    "body_layer_weights",
    "weight_schedule",
    "body_weight_schedule",
    "face_negative",
}
BASIC = ("face", "body", "face_weight", "body_weight", "start_percent", "end_percent")
CARD_NAMES = {
    "MultiRefImageEncoder",
    "PoolingAggregator",
    "SelfAttnAggregator",
    "BodyLandmarkEncoder",
}
WIDGETS = (FLOAT, STRING, BOOLEAN, COMBO, "INT")


@pytest.fixture(scope="module", autouse=True)
def loaded_extension():
    """The pack as ComfyUI has it after `on_load`: the lists of files ask for the model folders."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(folder_paths, "folder_names_and_paths", dict(folder_paths.folder_names_and_paths))
        asyncio.run(BolidExtension().on_load())
        yield


@pytest.fixture(params=NODES, ids=lambda node: node.__name__)
def node(request) -> type[io.ComfyNode]:
    return request.param


def schemas() -> dict[str, io.Schema]:
    return {node.GET_SCHEMA().node_id: node.GET_SCHEMA() for node in NODES}


def test_the_extension_offers_the_nodes():
    extension = asyncio.run(comfy_entrypoint())
    assert isinstance(extension, BolidExtension)
    assert asyncio.run(extension.get_node_list()) == NODES


def test_node_ids():
    ids = [node.GET_SCHEMA().node_id for node in NODES]
    assert len(set(ids)) == len(ids)
    assert set(CONTRACTS) <= set(ids)
    assert all(node_id.startswith("BoLID") or node_id in CARD_NAMES for node_id in ids)
    assert all(node.GET_SCHEMA().node_id == node.__name__ for node in NODES)


@pytest.mark.parametrize("node_id", CONTRACTS)
def test_contracts(node_id):
    schema = schemas()[node_id]
    required, optional, outputs = CONTRACTS[node_id]
    found = {given.id: given for given in schema.inputs}
    for ids, is_optional in ((required, False), (optional, True)):
        for name, kind in ids.items():
            assert found[name].get_io_type() == kind, name
            assert bool(found[name].optional) == is_optional, name
    # Anything new must be optional, or prompts that programs already send are answered by HTTP 400.
    assert all(given.optional for name, given in found.items() if name not in required)
    assert {output.id: output.get_io_type() for output in schema.outputs} == outputs
    assert [output.id for output in schema.outputs] == list(outputs)
    stored = [name for name, given in found.items() if given.get_io_type() in WIDGETS]
    known = [name for name, kind in (required | optional).items() if kind in WIDGETS]
    assert stored[: len(known)] == known


@pytest.mark.parametrize(("node_id", "name"), COMBOS)
def test_choices(node_id, name):
    (combo,) = [given for given in schemas()[node_id].inputs if given.id == name]
    expected = COMBOS[node_id, name]
    assert combo.options[: len(expected)] == expected
    assert combo.default in combo.options


def test_expert_settings_of_apply_are_advanced():
    inputs = {given.id: given for given in schemas()["BoLIDAdapterApply"].inputs}
    assert ADVANCED <= set(inputs)
    assert {name for name, given in inputs.items() if given.advanced} >= ADVANCED
    assert not any(inputs[name].advanced for name in BASIC)


def test_the_schema_holds(node):
    schema = node.GET_SCHEMA()
    schema.validate()
    info = schema.get_v1_info(node)
    assert info.name == schema.node_id and info.category == "BoLID"
    assert schema.display_name.endswith("(BoLID)") and schema.description and schema.search_aliases


def test_inputs_are_what_execute_takes(node):
    parameters = inspect.signature(node.execute).parameters
    schema = node.GET_SCHEMA()
    inputs = {given.id: given for given in schema.inputs}
    assert set(parameters) == set(inputs)
    for name, parameter in parameters.items():
        assert parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        # ComfyUI leaves an unconnected optional input out of the call.
        assert (parameter.default is inspect.Parameter.empty) == (not inputs[name].optional), name
        if getattr(inputs[name], "default", None) is not None and inputs[name].optional:
            default = inputs[name].default
            assert parameter.default == ((default,) if schema.is_input_list else default), name


@pytest.mark.parametrize("method", ["validate_inputs", "fingerprint_inputs"])
def test_hooks_name_inputs_that_exist(method, node):
    if method not in vars(node):
        return
    inputs = {given.id for given in node.GET_SCHEMA().inputs}
    assert set(inspect.signature(getattr(node, method)).parameters) <= inputs


def test_every_input_has_a_tooltip(node):
    for given in node.GET_SCHEMA().inputs:
        assert given.tooltip and len(given.tooltip) > 15 and given.tooltip.rstrip()[-1] in ".)", given.id


def test_no_widget_is_randomised_after_each_run(node):
    assert not {given.id for given in node.GET_SCHEMA().inputs} & {"seed", "noise_seed"}


def test_numbers_have_a_range_and_a_default_inside_it(node):
    for given in node.GET_SCHEMA().inputs:
        if given.get_io_type() in (FLOAT, "INT"):
            assert given.min <= given.default <= given.max and given.step > 0


def test_only_nodes_that_look_at_many_photos_take_lists():
    lists = {node_id for node_id, schema in schemas().items() if schema.is_input_list}
    assert lists == {
        "MultiRefImageEncoder",
        "BodyLandmarkEncoder",
        "BoLIDRankImages",
        "BoLIDDetectFaces",
        "BoLIDNoiseReference",
        "BoLIDDemoPoseDetector",
    }
    (images,) = schemas()["BoLIDLoadReferences"].outputs
    ranked, scores = schemas()["BoLIDRankImages"].outputs
    assert images.is_output_list and ranked.is_output_list and not scores.is_output_list
