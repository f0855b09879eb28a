"""Drawn people through a real headless ComfyUI, over its HTTP API: a grid of pictures, and how like they are.

Started by scripts/demo, which sets up the environment and ComfyUI.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "clients"))

from comfyui_client import ComfyUIClient  # noqa: E402
from local_server import LocalServer  # noqa: E402

if TYPE_CHECKING:
    from demo_measures import Measures

Prompt = dict[str, dict[str, Any]]

WORKFLOWS = ROOT / "workflows" / "api"
OUTPUT = ROOT / "output"
PEOPLE = ("person_802", "person_807", "person_809")
PHOTOS = 10
REFERENCES = 9
"""The first nine photos; the tenth is the real picture to compare with."""

POSE = {"person": "person_811", "first": 6, "count": 1}
PROMPT_OF_POSE = "a person dancing by the sea"
TILE = 192


@dataclass(frozen=True)
class Column:
    """What one way makes of a person."""

    title: str
    workflow: str
    photos: int = REFERENCES
    change: Callable[[Prompt], None] = lambda prompt: None
    posed: bool = False


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    parser.parse_args()
    # End by an exception, so that the server is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    try:
        run_demo()
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"\nscripts/demo failed: {error}")
    except KeyboardInterrupt:
        sys.exit("\nstopped")


def run_demo() -> None:
    OUTPUT.mkdir(exist_ok=True)
    print(f"Starting ComfyUI ({os.environ['COMFYUI_DIR']}) ...", flush=True)
    start = time.monotonic()
    with ThreadPoolExecutor(1) as beside:
        measures = beside.submit(load_measures)
        with LocalServer(
            comfyui_dir=os.environ["COMFYUI_DIR"], packs={"BoLID": ROOT}, log_file=OUTPUT / "comfyui.log"
        ) as server:
            version = server.client.system_stats()["system"]["comfyui_version"]
            print(f"ComfyUI {version} answers at {server.address} after {time.monotonic() - start:.1f} s.")
            results = {person: drawn(server.client, person, measures.result()) for person in PEOPLE}
            unchanged = saved_picture(server.client, prompt_of(WEIGHT_0, PEOPLE[0]), OUTPUT / "weight_0.png")
    contact_sheet(results).save(OUTPUT / "demo.png")
    means = {
        name: round(float(np.mean([found[name]["identity_similarity"] for found in results.values()])), 3)
        for name in ("real", *COLUMNS)
    }
    summary = {
        "comfyui_version": version,
        "prompt": titled(prompt_of(COLUMNS["no_adapter"], PEOPLE[0]), "Prompt")["inputs"]["text"],
        "prompt_of_pose": PROMPT_OF_POSE,
        "people": results,
        "mean_identity_similarity": means,
    }
    (OUTPUT / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    if not np.array_equal(unchanged, pixels(OUTPUT / f"{PEOPLE[0]}_no_adapter.png")):
        raise RuntimeError(
            "face_weight 0 does not give the picture without the adapter, bit for bit: compare output/weight_0.png "
            f"with output/{PEOPLE[0]}_no_adapter.png."
        )
    print("\nMean likeness to the person (1: the same direction as the nine photos):")
    titles = {"real": "another real picture"} | {name: column.title for name, column in COLUMNS.items()}
    for name, mean in means.items():
        print(f"  {titles[name].replace(chr(10), ' '):32} {mean:5.2f}")
    print(f"\nAll side by side: {OUTPUT / 'demo.png'}")


def load_measures() -> Measures:
    """While the server starts: torch alone takes seconds."""
    from demo_measures import Measures

    return Measures()


def drawn(client: ComfyUIClient, person: str, measures: Measures) -> dict[str, dict[str, Any]]:
    """A person by every method, and what the pictures are like."""
    photos = photos_of(person)
    who = measures.person(photos[:REFERENCES])
    found: dict[str, dict[str, Any]] = {"real": {"identity_similarity": measures.likeness(photos[-1], who)}}
    for name, column in COLUMNS.items():
        start = time.monotonic()
        picture = saved_picture(client, prompt_of(column, person), OUTPUT / f"{person}_{name}.png")
        found[name] = {
            "file": f"{person}_{name}.png",
            "seconds": round(time.monotonic() - start, 2),
            "identity_similarity": measures.likeness(picture, who),
            **(measures.pose(picture, photos_of(POSE["person"])[POSE["first"] - 1]) if column.posed else {}),
        }
        print(f"  {person} {name:15} {found[name]['seconds']:5.2f} s", flush=True)
    return found


def without_adapter(prompt: Prompt) -> None:
    """Take the adapter's node out: what it gave to the sampler comes straight from the model."""
    node_id = only(prompt, "BoLIDAdapterApply")
    model = prompt.pop(node_id)["inputs"]["model"]
    for node in prompt.values():
        for name, value in node["inputs"].items():
            if value == [node_id, 0]:
                node["inputs"][name] = model


def weightless(prompt: Prompt) -> None:
    prompt[only(prompt, "BoLIDAdapterApply")]["inputs"]["face_weight"] = 0.0


def without_body_branch(prompt: Prompt) -> None:
    """The adapter that never had one."""
    prompt[only(prompt, "BoLIDDemoModelLoader")]["inputs"]["method"] = "self_attention"


def another_pose(prompt: Prompt) -> None:
    titled(prompt, "Photo of the Pose")["inputs"].update(POSE)
    titled(prompt, "Prompt")["inputs"]["text"] = PROMPT_OF_POSE


COLUMNS = {
    "no_adapter": Column("No adapter", "one_photo", photos=1, change=without_adapter),
    "one_photo": Column("One photo", "one_photo", photos=1),
    "averaged": Column("Nine averaged", "one_photo"),
    "self_attention": Column("Self-attention", "face_only", change=without_body_branch),
    "bolid": Column("BoLID, another pose\nand prompt", "body_target_pose", change=another_pose, posed=True),
}
WEIGHT_0 = Column("Weight 0", "one_photo", photos=1, change=weightless)


def prompt_of(column: Column, person: str) -> Prompt:
    """The API form of a bundled workflow, for this person."""
    prompt = json.loads((WORKFLOWS / f"{column.workflow}.json").read_text(encoding="utf-8"))
    for node in prompt.values():
        if node["class_type"] == "BoLIDDemoPhotos":
            node["inputs"].update(person=person, first=1, count=column.photos)
    column.change(prompt)
    return prompt


def only(prompt: Prompt, class_type: str) -> str:
    (node_id,) = [node_id for node_id, node in prompt.items() if node["class_type"] == class_type]
    return node_id


def titled(prompt: Prompt, title: str) -> dict[str, Any]:
    (node,) = [node for node in prompt.values() if node.get("_meta", {}).get("title") == title]
    return node


def saved_picture(client: ComfyUIClient, prompt: Prompt, file: Path) -> np.ndarray:
    """Run a prompt, write its saved picture to a file, and return its pixels."""
    save_id = only(prompt, "SaveImage")
    pictures = [picture for picture in client.run(prompt) if picture.node_id == save_id]
    if not pictures:
        raise RuntimeError(f"ComfyUI saved no picture of {file.stem}; see output/comfyui.log.")
    file.write_bytes(pictures[0].data)
    return pixels(file)


def pixels(file: Path) -> np.ndarray:
    """[H, W, 3] uint8."""
    return np.array(Image.open(file).convert("RGB"))


def photos_of(person: str) -> list[np.ndarray]:
    """The pictures that `BoLIDDemoPhotos` gives."""
    return np.split(pixels(ROOT / "world" / "demo" / f"{person}.png"), PHOTOS, axis=1)


def contact_sheet(results: dict[str, dict[str, Any]]) -> Image.Image:
    """A row for each person: nine references, then what the methods draw, each with its likeness."""
    margin, head, foot = 10, 44, 22
    titles = [f"{REFERENCES} references", *(column.title for column in COLUMNS.values())]
    width = margin + len(titles) * (TILE + margin)
    sheet = Image.new("RGB", (width, head + len(results) * (TILE + foot + margin)), "white")
    draw = ImageDraw.Draw(sheet)
    font, small = ImageFont.load_default(16), ImageFont.load_default(13)

    def left(index: int) -> int:
        return margin + index * (TILE + margin)

    for index, title in enumerate(titles):
        draw.text(
            (left(index) + TILE // 2, head // 2), title, fill="black", anchor="mm", align="center", font=font, spacing=2
        )
    for row, (person, found) in enumerate(results.items()):
        top = head + row * (TILE + foot + margin)
        for index, photo in enumerate(photos_of(person)[:REFERENCES]):
            tile = Image.fromarray(photo).resize((TILE // 3, TILE // 3), Image.Resampling.LANCZOS)
            sheet.paste(tile, (left(0) + index % 3 * (TILE // 3), top + index // 3 * (TILE // 3)))
        for index, name in enumerate(COLUMNS, start=1):
            tile = Image.open(OUTPUT / found[name]["file"]).resize((TILE, TILE), Image.Resampling.LANCZOS)
            sheet.paste(tile, (left(index), top))
            note = f"likeness {found[name]['identity_similarity']:.2f}"
            draw.text((left(index) + TILE // 2, top + TILE + foot // 2), note, fill="#444", anchor="mm", font=small)
    return sheet


if __name__ == "__main__":
    main()
