"""Make workflows/NAME.json and its picture NAME.jpg from workflows/api/NAME.json, with ComfyUI's own frontend.

For developers, after an API form has changed; scripts/test sets up what it needs:

    .venv/bin/python scripts/make_workflows.py [NAME ...]

The API form is the source: inputs, links and titles. This file adds what it cannot say: places, groups and the note.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "clients"))

from local_server import LocalServer  # noqa: E402

WORKFLOWS = ROOT / "workflows"
MAX_PICTURE_BYTES = 100_000
ZOOM = 0.7
# Larger than the frontend's default of 10, to be legible in a picture of the whole graph.
TEXT_SIZE = 15
# The frontend's own bars around the graph: left, top, right, bottom.
BARS = (70, 110, 20, 70)

# Bold instead of code, which Nodes 2.0 draws blue on blue.
DEMO_MODEL = (
    "The demo model knows a small world of drawn people and places in **128 × 128** pixels, and words such as **in a "
    "forest**, **dancing**, **wearing a red jacket**; photographs mean nothing to it."
)
DEMO_PHOTOS = "Put the photos into the folder **bolid_demo** in ComfyUI's **input** folder."
IMAGE_ENCODER = "h94/IP-Adapter on Hugging Face has it as **models/image_encoder/model.safetensors**: rename it"
FILES = (
    "The photos go into **input/bolid_demo**, and the files that the loaders name into **models/checkpoints**, "
    f"**models/clip_vision** ({IMAGE_ENCODER}) and **models/ipadapter**"
)
DEMO_PEOPLE = "**Demo Photos** has drawn people; the model has learned from none of them."
DEMO_POSES = "With photographs and a real model take **Detect Demo Poses** out: **Encode Body** finds joints by itself."
MEDIAPIPE = "Bodies are found by the package **mediapipe==0.10.21**."
POSE_PHOTO = (
    "Choose a photo of anybody in that pose in **Load Pose Photo** (nobody is found in the drawing **example.png**), "
    "with the aspect ratio of the picture to be drawn."
)
NOTES = {
    "one_photo": "Draws a picture that follows one photo, on a small model that needs no download. "
    f"{DEMO_PEOPLE} {DEMO_MODEL}",
    "many_photos_averaged": "Draws a picture that follows the average of several photos of one person, on a small "
    f"model that needs no download. {DEMO_PHOTOS} {DEMO_MODEL}",
    "many_photos_max": "Draws a picture that follows the strongest features of several photos of one person (MAX "
    "pooling, brought back to the photos' mean length), on a small model that needs no download. "
    f"{DEMO_PEOPLE} {DEMO_MODEL}",
    "plus_sd15": "Draws the person in your photos with SD1.5 and IP-Adapter plus: the photos are encoded, averaged and "
    f"applied to the model. {FILES} (h94/IP-Adapter). Turn **face_weight** to balance photos and prompt: nothing is "
    "encoded again.",
    "faceid_plus_sd15": "Draws the face in your photos with SD1.5 and IP-Adapter FaceID-plus v2; the LoRA in its file "
    f"is applied by itself (**lora_strength**). {FILES} (h94/IP-Adapter-FaceID), and insightface's models into "
    "**models/insightface/models/buffalo_l**. It needs **pip install insightface onnxruntime**; insightface's models "
    "are for non-commercial research only.",
    "sdxl_plus_face": "Draws the face in your photos with SDXL and IP-Adapter plus-face: every photo is cropped to the "
    f"face, encoded, averaged and applied to the model. {FILES} (h94/IP-Adapter). Faces are found by the package "
    "**mediapipe==0.10.21**; without it, connect a face model to **face_analysis**.",
    "one_photo_body": "Draws a picture that follows one photo, face and body, on a small model that needs no download. "
    f"**Encode Body** shows what was found in it. {DEMO_PEOPLE} {DEMO_POSES} {DEMO_MODEL}",
    "nine_photos_self_attention_body": "Draws a picture that follows nine photos of one person: the faces are "
    "combined by self-attention over nine places, the bodies give joints and proportions. Fewer photos than nine are "
    f"repeated at random (**fill_seed**), more than nine are left out. {DEMO_PEOPLE} {DEMO_POSES} {DEMO_MODEL}",
    "body_target_pose": "Draws a picture that follows nine photos of one person, face and body, and the pose of "
    "somebody else's photo, on a small model that needs no download. The pose adds nothing to the person. "
    f"{DEMO_PEOPLE} {DEMO_POSES} {DEMO_MODEL}",
    "body_controlnet_pose": "Draws the person in your photos with SD1.5 in the pose of another photo: as the body's "
    "target pose and as a skeleton for a ControlNet. **An adapter with a body branch has to be trained first**: "
    "**bolid_sd15.safetensors** is not published; choose any such file in **Load Adapter**. It goes into "
    "**models/bolid**, the photos into **input/bolid_demo**, and the files that the other loaders name into "
    f"**models/checkpoints**, **models/controlnet** and **models/clip_vision** ({IMAGE_ENCODER}). {POSE_PHOTO} "
    f"{MEDIAPIPE}",
    "two_people_regions": "Draws two persons in one picture, each with photos, a mask and a prompt of their own, on a "
    "small model that needs no download. The masks may have any size: they are fitted to the picture. "
    f"{DEMO_MODEL}",
    "animation_batch": "Draws an animation, one picture for each photo, from the same noise: **per_picture** gives the "
    "first picture of the batch the first photo, the second the second. On a small model that needs no download. "
    f"{DEMO_MODEL}",
    "best_of_several": "Draws six pictures and keeps the two that are most like the person in the photos, on a small "
    f"model that needs no download. **Scores** says what each was given. {DEMO_MODEL}",
    "sdxl_style_transfer": "Draws what the prompt says in the style of a picture, with SDXL and IP-Adapter plus: "
    "**weight_type** = style transfer lets the picture act in the layers that are known for style. Choose the picture "
    "in **Load Style Picture**. The files that the loaders name go into **models/checkpoints**, "
    f"**models/clip_vision** ({IMAGE_ENCODER}) and **models/ipadapter** (h94/IP-Adapter).",
    "face_only": "Draws a picture that follows the faces in several photos, with an adapter that has a body branch "
    "too: what is not connected does nothing. The photos are combined by self-attention over nine places. "
    f"{DEMO_PEOPLE} {DEMO_MODEL}",
}

# What the frontend offers to download where a file is missing; it takes .safetensors only.
DOWNLOADS = {
    "v1-5-pruned-emaonly-fp16.safetensors": (
        "checkpoints",
        "https://huggingface.co/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/v1-5-pruned-emaonly-fp16.safetensors",
    ),
    "control_v11p_sd15_openpose_fp16.safetensors": (
        "controlnet",
        "https://huggingface.co/comfyanonymous/ControlNet-v1-1_fp16_safetensors/resolve/main/"
        "control_v11p_sd15_openpose_fp16.safetensors",
    ),
    "sd_xl_base_1.0.safetensors": (
        "checkpoints",
        "https://huggingface.co/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/sd_xl_base_1.0.safetensors",
    ),
    "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors": (
        "clip_vision",
        "https://huggingface.co/h94/IP-Adapter/resolve/main/models/image_encoder/model.safetensors",
    ),
    "ip-adapter-plus_sd15.safetensors": (
        "ipadapter",
        "https://huggingface.co/h94/IP-Adapter/resolve/main/models/ip-adapter-plus_sd15.safetensors",
    ),
    "ip-adapter-plus_sdxl_vit-h.safetensors": (
        "ipadapter",
        "https://huggingface.co/h94/IP-Adapter/resolve/main/sdxl_models/ip-adapter-plus_sdxl_vit-h.safetensors",
    ),
    "ip-adapter-plus-face_sdxl_vit-h.safetensors": (
        "ipadapter",
        "https://huggingface.co/h94/IP-Adapter/resolve/main/sdxl_models/ip-adapter-plus-face_sdxl_vit-h.safetensors",
    ),
}

# x, y, width and height in the graph's pixels, below the title bar. Room under widgets is for previews, and for the
# larger nodes of the frontend's other way of drawing them ("Nodes 2.0").
PLACES: dict[str, tuple[int, int, int, int]] = {
    "Note": (0, 50, 1150, 150),
    "BoLIDLoadReferences": (20, 340, 400, 330),
    "BoLIDDemoPhotos": (20, 340, 400, 330),
    "LoadImage": (20, 340, 400, 330),
    "MultiRefImageEncoder": (470, 340, 310, 330),
    "PoolingAggregator": (830, 340, 300, 170),
    "SelfAttnAggregator": (830, 340, 300, 170),
    "BoLIDAdapterApply": (1220, 340, 310, 480),
    "KSampler": (1620, 340, 310, 270),
    "VAEDecode": (1970, 340, 225, 56),
    "SaveImage": (2235, 340, 330, 370),
    "BoLIDDemoModelLoader": (20, 970, 400, 170),
    "CheckpointLoaderSimple": (20, 970, 400, 104),
    "BoLIDAdapterLoader": (20, 1150, 400, 112),
    "CLIPVisionLoader": (20, 1330, 400, 64),
    "BoLIDFaceAnalysisLoader": (20, 1470, 400, 116),
    "Prompt": (1220, 970, 460, 110),
    "Negative Prompt": (1220, 1160, 460, 110),
    "EmptyLatentImage": (1220, 1330, 460, 120),
    "BodyLandmarkEncoder": (830, 1270, 300, 300),
    "Load Pose Photo": (20, 1300, 400, 330),
    "BoLIDDemoPoseDetector": (470, 1270, 310, 330),
    "Photo of the Pose": (20, 1750, 400, 330),
    "Detect the Pose": (470, 1750, 310, 330),
}
# Where a workflow puts nodes elsewhere.
OWN_PLACES: dict[str, dict[str, tuple[int, int, int, int]]] = {
    "two_people_regions": {
        "Photos of the Left Person": (20, 340, 400, 330),
        "Encode Left": (470, 340, 310, 330),
        "Pool Left": (830, 340, 300, 170),
        "Photos of the Right Person": (20, 830, 400, 330),
        "Encode Right": (470, 830, 310, 330),
        "Pool Right": (830, 830, 300, 170),
        "BoLIDDemoModelLoader": (20, 1320, 400, 170),
        "Nothing": (470, 1320, 310, 120),
        "Half": (470, 1510, 310, 120),
        "Left Half": (830, 1320, 300, 160),
        "Right Half": (830, 1550, 300, 160),
        "Prompt": (1220, 970, 460, 110),
        "Prompt of the Left Person": (1220, 1150, 460, 110),
        "Prompt of the Right Person": (1220, 1330, 460, 110),
        "Negative Prompt": (1220, 1510, 460, 110),
        "EmptyLatentImage": (1220, 1680, 460, 120),
        "Left Person": (1730, 340, 310, 330),
        "Right Person": (2090, 340, 310, 330),
        "KSampler": (2490, 340, 310, 270),
        "VAEDecode": (2840, 340, 225, 56),
        "SaveImage": (3105, 340, 400, 370),
    },
    "animation_batch": {
        "LatentBatchSeedBehavior": (1260, 1510, 420, 64),
        "KSampler": (1730, 340, 310, 270),
        "VAEDecode": (2080, 340, 225, 56),
        "SaveAnimatedWEBP": (2345, 340, 330, 450),
    },
    "best_of_several": {
        "BoLIDRankImages": (2240, 340, 330, 520),
        "Save the Best": (2620, 340, 400, 370),
        "Scores": (2620, 830, 400, 330),
    },
    "sdxl_style_transfer": {"Load Style Picture": (20, 340, 400, 330)},
    "body_controlnet_pose": {
        "Load Pose Photo": (20, 1560, 400, 330),
        "Pose Keypoints": (470, 1560, 310, 330),
        "SDPoseDrawKeypoints": (1220, 1600, 310, 290),
        "ControlNetLoader": (1570, 1760, 400, 64),
        "ControlNetApplyAdvanced": (2010, 1600, 300, 200),
        "KSampler": (2400, 340, 310, 270),
        "VAEDecode": (2750, 340, 225, 56),
        "SaveImage": (3015, 340, 330, 370),
    },
}
GROUPS = {
    "Left person": ("Photos of the Left Person", "Encode Left", "Pool Left"),
    "Right person": ("Photos of the Right Person", "Encode Right", "Pool Right"),
    "Where they are": ("Nothing", "Half", "Left Half", "Right Half"),
    "Photos of one person": (
        "BoLIDLoadReferences",
        "BoLIDDemoPhotos",
        "LoadImage",
        "MultiRefImageEncoder",
        "PoolingAggregator",
        "SelfAttnAggregator",
    ),
    "Body of this person": ("BodyLandmarkEncoder", "BoLIDDemoPoseDetector"),
    "Pose": ("Load Pose Photo", "Pose Keypoints", "Photo of the Pose", "Detect the Pose"),
    "Pose into the picture": ("SDPoseDrawKeypoints", "ControlNetLoader", "ControlNetApplyAdvanced"),
    "Models": (
        "BoLIDDemoModelLoader",
        "CheckpointLoaderSimple",
        "CLIPVisionLoader",
        "BoLIDAdapterLoader",
        "BoLIDFaceAnalysisLoader",
    ),
    "The person into the model": ("BoLIDAdapterApply",),
    "Both into the model": ("Left Person", "Right Person"),
    "Text and size": (
        "Prompt",
        "Prompt of the Left Person",
        "Prompt of the Right Person",
        "Negative Prompt",
        "EmptyLatentImage",
        "LatentBatchSeedBehavior",
    ),
    "Picture": ("KSampler", "VAEDecode", "SaveImage", "SaveAnimatedWEBP"),
    "The best of them": ("BoLIDRankImages", "Save the Best", "Scores"),
    "Style": ("Load Style Picture",),
}
GROUP_COLOURS = dict.fromkeys(
    (
        "Photos of one person",
        "Left person",
        "Right person",
        "Body of this person",
        "The person into the model",
        "Both into the model",
        "The best of them",
    ),
    "#88a070",
)
STOCK_COLOUR = "#3f789e"
TITLE_HEIGHT = 30
GROUP_MARGIN = 20
GROUP_TITLE = 70
PICTURE_MARGIN = 20

READY = "window.app?.graph && Object.keys(window.LiteGraph.registered_node_types).length > 100"

LAY_OUT = """async ({api, name, note, places, groups}) => {
    await app.loadApiJson(api, name);
    const graph = app.graph;
    const text = LiteGraph.createNode("MarkdownNote");
    text.title = "Note";
    graph.add(text);
    text.widgets[0].value = note;
    for (const node of graph._nodes) {
        const place = places[node.title] ?? places[node.type];
        if (!place) throw new Error(`no place for ${node.type}`);
        node.pos = [place[0], place[1]];
        node.setSize([place[2], Math.max(place[3], node.computeSize()[1])]);
        const control = node.widgets?.find((widget) => widget.name === "control_after_generate");
        if (control) control.value = "fixed";
    }
    for (const {title, bounding, color} of groups) {
        const group = new LiteGraph.LGraphGroup(title);
        group.pos = [bounding[0], bounding[1]];
        group.size = [bounding[2], bounding[3]];
        group.color = color;
        graph.add(group);
    }
    return JSON.parse(JSON.stringify(graph.serialize()));
}"""

# The graph from (left, top) on, at (x, y) of the window.
SHOW = """async ({graph, left, top, x, y, zoom}) => {
    await app.loadGraphData(graph);
    const canvas = app.canvas.canvas.getBoundingClientRect();
    app.canvas.ds.scale = zoom;
    app.canvas.ds.offset = [(x - canvas.left) / zoom - left, (y - canvas.top) / zoom - top];
    app.canvas.background_image = "";
    app.canvas.show_info = false;
    app.canvas.setDirty(true, true);
}"""


def main() -> None:
    names = sorted(file.stem for file in (WORKFLOWS / "api").glob("*.json"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; all of them by default")
    chosen = parser.parse_args().names or names
    if unknown := set(chosen) - set(names):
        parser.error(f"workflows/api has no {', '.join(sorted(unknown))}")
    prompts = {name: json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8")) for name in names}
    with frontend(parser, prompts.values()) as page:
        for name in chosen:
            graph = ui_form(page, name, prompts[name])
            text = json.dumps(graph, indent=2, ensure_ascii=False)
            (WORKFLOWS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
            picture = jpeg(picture_of(page, graph))
            (WORKFLOWS / f"{name}.jpg").write_bytes(picture)
            print(f"{name}: {len(graph['nodes'])} nodes, picture of {len(picture) / 1000:.0f} kB")


@contextmanager
def frontend(parser: argparse.ArgumentParser, prompts: Iterable[dict[str, Any]]) -> Iterator[Page]:
    """ComfyUI's frontend on a server that has the files that these prompts name."""
    comfyui_dir = os.environ.get("COMFYUI_DIR") or max((ROOT / ".comfyui").glob("ComfyUI-*"), default=None)
    chromium = shutil.which(os.environ.get("BOLID_CHROMIUM", "chromium"))
    if comfyui_dir is None or chromium is None:
        parser.error("no ComfyUI or no Chromium: scripts/test fetches both; or set COMFYUI_DIR and BOLID_CHROMIUM")
    with tempfile.TemporaryDirectory() as base_directory:
        _write_stand_ins(Path(base_directory), Path(comfyui_dir), prompts)
        with (
            LocalServer(comfyui_dir=comfyui_dir, packs={"BoLID": ROOT}, base_directory=base_directory) as server,
            sync_playwright() as playwright,
        ):
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            server.client.set_setting("Comfy.Minimap.Visible", False)
            server.client.set_setting("Comfy.TextareaWidget.FontSize", TEXT_SIZE)
            page = browser.new_page()
            page.goto(server.address)
            page.wait_for_function(READY)
            yield page
            browser.close()


def _write_stand_ins(base_directory: Path, comfyui_dir: Path, prompts: Iterable[dict[str, Any]]) -> None:
    """Empty files under the names that the loaders list: nothing is run here, but a missing file is drawn in red."""
    folders = {
        "ckpt_name": "checkpoints",
        "clip_name": "clip_vision",
        "adapter_name": "ipadapter",
        "control_net_name": "controlnet",
    }
    for prompt in prompts:
        for node in prompt.values():
            for name, folder in folders.items():
                if name in node["inputs"]:
                    file = base_directory / "models" / folder / node["inputs"][name]
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.touch()
    (base_directory / "input").mkdir()
    shutil.copy(comfyui_dir / "input" / "example.png", base_directory / "input")


def ui_form(page: Page, name: str, prompt: dict[str, Any]) -> dict[str, Any]:
    """The UI form of a prompt, laid out, without what only a running frontend needs."""
    places = PLACES | OWN_PLACES.get(name, {})
    # A node is placed by its title, or else by its class.
    titles = {
        title if (title := node.get("_meta", {}).get("title")) in places else node["class_type"]
        for node in prompt.values()
    }
    groups = [
        {
            "title": title,
            "bounding": bounding([places[member] for member in members if member in titles]),
            "color": color,
        }
        for title, members in GROUPS.items()
        for color in [GROUP_COLOURS.get(title, STOCK_COLOUR)]
        if titles & set(members)
    ]
    graph = page.evaluate(
        LAY_OUT, {"api": prompt, "name": name, "note": NOTES[name], "places": places, "groups": groups}
    )
    return stripped(graph)


def bounding(places: list[tuple[int, int, int, int]]) -> list[int]:
    left = min(x for x, _, _, _ in places) - GROUP_MARGIN
    top = min(y for _, y, _, _ in places) - TITLE_HEIGHT - GROUP_TITLE
    right = max(x + width for x, _, width, _ in places) + GROUP_MARGIN
    bottom = max(y + height for _, y, _, height in places) + GROUP_MARGIN
    return [left, top, right - left, bottom - top]


def stripped(graph: dict[str, Any]) -> dict[str, Any]:
    kept = {key: graph[key] for key in ("last_node_id", "last_link_id", "nodes", "links", "groups", "version")}
    for node in kept["nodes"]:
        for key in [key for key, value in node.items() if value is None]:
            del node[key]
        for slot in (*node.get("inputs", ()), *node.get("outputs", ())):
            # `link` and `links` may be null: a slot that is not connected. Names in the language of this machine go.
            for key in [key for key, value in slot.items() if value is None and key not in ("link", "links")]:
                del slot[key]
            slot.pop("localized_name", None)
        for value in node.get("widgets_values", ()):
            if value in DOWNLOADS:
                directory, url = DOWNLOADS[value]
                node["properties"]["models"] = [{"name": value, "url": url, "directory": directory}]
    return kept


def picture_of(page: Page, graph: dict[str, Any]) -> Image.Image:
    boxes = [group["bounding"] for group in graph["groups"]]
    for node in graph["nodes"]:
        (x, y), (width, height) = node["pos"], node["size"]
        boxes.append([x, y - TITLE_HEIGHT, width, height + TITLE_HEIGHT])
    left, top = (min(box[axis] for box in boxes) - PICTURE_MARGIN for axis in (0, 1))
    right, bottom = (max(box[axis] + box[2 + axis] for box in boxes) + PICTURE_MARGIN for axis in (0, 1))
    width, height = round((right - left) * ZOOM), round((bottom - top) * ZOOM)
    bar_left, bar_top, bar_right, bar_bottom = BARS
    page.set_viewport_size({"width": bar_left + width + bar_right, "height": bar_top + height + bar_bottom})
    page.evaluate(SHOW, {"graph": graph, "left": left, "top": top, "x": bar_left, "y": bar_top, "zoom": ZOOM})
    # Text and photos are drawn over the graph a moment later.
    page.wait_for_timeout(1500)
    clip = {"x": bar_left, "y": bar_top, "width": width, "height": height}
    return Image.open(io.BytesIO(page.screenshot(clip=clip))).convert("RGB")


def jpeg(image: Image.Image, *, max_bytes: int = MAX_PICTURE_BYTES) -> bytes:
    for quality in range(92, 20, -4):
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True, progressive=True)
        if buffer.tell() <= max_bytes:
            return buffer.getvalue()
    raise RuntimeError(f"a picture of {image.size} does not fit into {max_bytes} bytes")


if __name__ == "__main__":
    main()
