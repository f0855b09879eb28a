"""Several photos of one person through a real headless ComfyUI, over its HTTP API, into pictures.

Started by scripts/demo, which sets up the environment and ComfyUI.
"""

from __future__ import annotations

import argparse
import copy
import io
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "clients"))

from comfyui_client import ComfyUIClient  # noqa: E402
from local_server import LocalServer  # noqa: E402
from photographs import carphone_frames, photograph  # noqa: E402

WORKFLOW = ROOT / "workflows" / "api" / "many_photos_averaged.json"
OUTPUT = ROOT / "output"
UPLOAD_FOLDER = "bolid_demo"
FRAMES = 5
PHOTO_EXTENSIONS = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
TILE = 256

# A picture has changed when some pixel differs by more than this, of 255: rounding alone moves a pixel by 1.
CHANGED = 2


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.add_argument("photos_folder", nargs="?", type=Path, help="at least 2 photos of one person")
    arguments = parser.parse_args()
    # End by an exception, so that the server is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    try:
        run_demo(arguments.photos_folder)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"\nscripts/demo failed: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped")


def run_demo(photos_folder: Path | None) -> None:
    workflow = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    person = read_photos(photos_folder) if photos_folder else frames_of_one_person()
    other_person = {"other_person.png": png(photograph("astronaut"))}
    OUTPUT.mkdir(exist_ok=True)

    full_weight = find(workflow, "BoLIDAdapterApply")["face_weight"]
    runs: dict[str, dict[str, Any]] = {
        "no_adapter": {"prompt": without_adapter(with_photos(workflow, list(person)))},
        "weight_0": {"prompt": with_face_weight(with_photos(workflow, list(person)), 0.0)},
        "one_photo": {"prompt": with_photos(workflow, list(person)[:1])},
        "averaged": {"prompt": with_photos(workflow, list(person))},
        "averaged_half_weight": {"prompt": with_face_weight(with_photos(workflow, list(person)), full_weight / 2)},
        "other_person": {"prompt": with_photos(workflow, list(other_person))},
    }

    print(f"Starting ComfyUI ({os.environ['COMFYUI_DIR']}) ...", flush=True)
    start = time.monotonic()
    with LocalServer(
        comfyui_dir=os.environ["COMFYUI_DIR"], packs={"BoLID": ROOT}, log_file=OUTPUT / "comfyui.log"
    ) as server:
        client = server.client
        version = client.system_stats()["system"]["comfyui_version"]
        print(f"ComfyUI {version} answers at {server.address} after {time.monotonic() - start:.1f} s.")
        for name, data in (person | other_person).items():
            client.upload_image(data, name=name, subfolder=UPLOAD_FOLDER)
        print(f"Uploaded {len(person)} photos of one person and one of somebody else.")
        for name, run in runs.items():
            start = time.monotonic()
            run["picture"] = saved_picture(client, run["prompt"], OUTPUT / f"{name}.png")
            run["seconds"] = round(time.monotonic() - start, 2)
            print(f"  {name:21} {run['seconds']:6.2f} s  output/{name}.png", flush=True)

    differences = {
        "weight 0 against no adapter": difference(runs, "weight_0", "no_adapter"),
        "full weight against weight 0": difference(runs, "averaged", "weight_0"),
        "full weight against half weight": difference(runs, "averaged", "averaged_half_weight"),
        "all photos against one photo": difference(runs, "averaged", "one_photo"),
        "this person against another": difference(runs, "averaged", "other_person"),
    }
    contact_sheet(person, runs).save(OUTPUT / "demo.png")
    summary = {
        "workflow": WORKFLOW.relative_to(ROOT).as_posix(),
        "comfyui_version": version,
        "photos": list(person),
        "model": "untrained: random weights",
        "runs": {name: {"file": f"{name}.png", "seconds": run["seconds"]} for name, run in runs.items()},
        "largest_pixel_difference_of_255": differences,
    }
    (OUTPUT / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    check(differences)
    print("\nLargest pixel difference (of 255):")
    for what, value in differences.items():
        print(f"  {what:32} {value:3}")
    print(
        "\nThe demo's model is UNTRAINED: its weights are random, so the pictures are patterns and show no people yet."
        "\nWhat they show is that the whole way works: the picture answers to the photos and to the weight, and weight"
        "\n0 is the picture without the adapter, bit for bit."
        f"\nAll side by side: {OUTPUT / 'demo.png'}"
    )


def read_photos(folder: Path) -> dict[str, bytes]:
    """File name on the server -> bytes, for every photo in a folder, in the order of their names."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder. Give one with photos of one person.")
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PHOTO_EXTENSIONS)
    if len(paths) < 2:
        raise ValueError(
            f"{folder} has {len(paths)} photos ({', '.join(sorted(PHOTO_EXTENSIONS))}). The demo averages several: "
            "put at least 2 photos of one person there."
        )
    return {f"person_{index:03}{path.suffix.lower()}": path.read_bytes() for index, path in enumerate(paths)}


def frames_of_one_person() -> dict[str, bytes]:
    return {f"person_{index:03}.png": png(frame) for index, frame in enumerate(carphone_frames(FRAMES))}


def png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def find(prompt: dict[str, Any], class_type: str) -> dict[str, Any]:
    """The inputs of the only node of a class."""
    return prompt[find_id(prompt, class_type)]["inputs"]


def find_id(prompt: dict[str, Any], class_type: str) -> str:
    ids = [node_id for node_id, node in prompt.items() if node["class_type"] == class_type]
    if len(ids) != 1:
        raise ValueError(f"{WORKFLOW.name} has {len(ids)} nodes {class_type}; the demo sets the inputs of exactly one.")
    return ids[0]


def with_photos(workflow: dict[str, Any], names: list[str]) -> dict[str, Any]:
    prompt = copy.deepcopy(workflow)
    find(prompt, "BoLIDLoadReferences").update(folder=UPLOAD_FOLDER, files="\n".join(names))
    return prompt


def with_face_weight(prompt: dict[str, Any], weight: float) -> dict[str, Any]:
    find(prompt, "BoLIDAdapterApply")["face_weight"] = weight
    return prompt


def without_adapter(prompt: dict[str, Any]) -> dict[str, Any]:
    """The same graph with the adapter's node taken out: what it gave to the sampler comes straight from the model."""
    node_id = find_id(prompt, "BoLIDAdapterApply")
    model = prompt.pop(node_id)["inputs"]["model"]
    for node in prompt.values():
        for name, value in node["inputs"].items():
            if value == [node_id, 0]:
                node["inputs"][name] = model
    return prompt


def saved_picture(client: ComfyUIClient, prompt: dict[str, Any], file: Path) -> np.ndarray:
    """Run a prompt, write its saved picture to a file, and return it as [H, W, 3] integers of 0 to 255."""
    save_id = find_id(prompt, "SaveImage")
    pictures = [picture for picture in client.run(prompt) if picture.node_id == save_id]
    if not pictures:
        raise RuntimeError(f"the server saved no picture in node {save_id} (SaveImage): see output/comfyui.log.")
    file.write_bytes(pictures[0].data)
    with Image.open(io.BytesIO(pictures[0].data)) as image:
        return np.asarray(image.convert("RGB"), dtype=np.int16)


def difference(runs: dict[str, dict[str, Any]], one: str, other: str) -> int:
    return int(np.abs(runs[one]["picture"] - runs[other]["picture"]).max())


def check(differences: dict[str, int]) -> None:
    """Raise RuntimeError unless the pictures answer to photos and weight, and weight 0 is the graph without adapter."""
    for what, value in differences.items():
        if what == "weight 0 against no adapter":
            if value != 0:
                raise RuntimeError(
                    f"face_weight 0 must give the picture of the graph without the adapter, bit for bit, but a pixel "
                    f"differs by {value} of 255. Compare output/weight_0.png with output/no_adapter.png."
                )
        elif value <= CHANGED:
            raise RuntimeError(
                f"the picture does not change: {what} differs by {value} of 255 at most (more than {CHANGED} is "
                "expected). BoLIDAdapterApply does not reach the sampler; see output/comfyui.log and output/demo.png."
            )


def contact_sheet(person: dict[str, bytes], runs: dict[str, dict[str, Any]]) -> Image.Image:
    """References (as a small grid) | weight 0 | one photo | averaged, with a caption under each."""
    photos = [Image.open(io.BytesIO(data)) for data in person.values()]
    columns = int(np.ceil(np.sqrt(len(photos))))
    side = TILE // columns
    references = Image.new("RGB", (TILE, TILE), "white")
    for index, photo in enumerate(photos):
        small = ImageOps.pad(ImageOps.exif_transpose(photo).convert("RGB"), (side, side), color="white")
        references.paste(small, (index % columns * side, index // columns * side))
    tiles = {f"{len(photos)} reference photos": references}
    for caption, name in (("weight 0", "weight_0"), ("one photo", "one_photo"), ("averaged", "averaged")):
        tiles[caption] = ImageOps.pad(Image.fromarray(runs[name]["picture"].astype(np.uint8)), (TILE, TILE))
    margin, caption_height = 8, 28
    sheet = Image.new("RGB", (len(tiles) * (TILE + margin) + margin, TILE + 2 * margin + caption_height), "white")
    draw = ImageDraw.Draw(sheet)
    for index, (caption, tile) in enumerate(tiles.items()):
        left = margin + index * (TILE + margin)
        sheet.paste(tile, (left, margin))
        middle = (left + TILE // 2, TILE + margin + caption_height // 2)
        draw.text(middle, caption, fill="black", anchor="mm", font=ImageFont.load_default(16))
    return sheet


if __name__ == "__main__":
    main()
