#!/usr/bin/env python3
"""Photos of one person go in, pictures of that person and the nodes' reports come out, over HTTP.

    python clients/examples/one_person.py photos/ --output anna --prompt "a person reading in a garden, warm light"

Uploads the photos of a folder, fills in one of the graphs of workflows/api, queues it, shows its progress, and writes
pictures and reports into a new folder, which appears when everything is in it and not before.

It needs Python 3.10, `requests` and `aiohttp`, and the two files comfyui_client.py and comfyui_events.py.

Exit codes: 0 all is written; 1 the run failed, was interrupted or took too long, or the server did not answer;
2 nothing was run, because of the command line, the photos, the graph or the server's check of it; 130 stopped by
Ctrl-C, the run as well.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

CLIENTS = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(CLIENTS))

from comfyui_client import ComfyUIClient  # noqa: E402
from comfyui_events import ConnectionLost, Done, Failed, NodeStarted, PromptRun, Queued, Step  # noqa: E402

WORKFLOW = CLIENTS.parent / "workflows" / "api" / "many_photos_averaged.json"
PHOTO_EXTENSIONS = {".avif", ".bmp", ".gif", ".heic", ".heif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}

Graph = dict[str, dict[str, Any]]


def main() -> int:
    try:
        make_pictures(arguments_of_the_command_line())
        return 0
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except (TimeoutError, RuntimeError) as error:  # the server does not answer, a node failed, it took too long
        print(error, file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:  # what was given is wrong, or the server refused the graph
        print(error, file=sys.stderr)
        return 2


def arguments_of_the_command_line() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path, help="folder with photos of one person")
    parser.add_argument("--output", type=Path, required=True, help="folder for the results; new, or empty")
    parser.add_argument("--workflow", type=Path, default=WORKFLOW, help="graph in API form (default: %(default)s)")
    parser.add_argument("--prompt", help="what the pictures should show; the graph's own text otherwise")
    parser.add_argument("--weight", type=float, help="how strong the person is, face and body; 0 is without")
    parser.add_argument("--seed", type=int, help="another number, another picture")
    parser.add_argument("--pose", type=Path, help="photo with the pose, for graphs that take one")
    parser.add_argument("--server", default="http://127.0.0.1:8188", help="(default: %(default)s)")
    parser.add_argument("--subfolder", default="one_person", help="for the uploads (default: %(default)s)")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds for the run (default: %(default)s)")
    return parser.parse_args()


def make_pictures(arguments: argparse.Namespace) -> None:
    if arguments.output.exists() and any(arguments.output.iterdir()):
        raise ValueError(f"{arguments.output} is not empty. Give the name of a new folder with --output.")
    photos = photos_of(arguments.photos)
    graph = read_graph(arguments.workflow)
    client = ComfyUIClient(arguments.server)

    # overwrite=False: a photo that is there already stays as it is, and what was computed of it stays in the cache;
    # somebody else's photo of the same name stays too, and the server chooses another name for this one.
    def upload(photo: Path) -> str:
        return client.upload_image(photo, subfolder=arguments.subfolder, overwrite=False)

    fill_in(
        graph,
        photos=[upload(photo) for photo in photos],
        pose=upload(arguments.pose) if arguments.pose else None,
        prompt=arguments.prompt,
        weight=arguments.weight,
        seed=arguments.seed,
    )
    reports = show_reports(graph, client)
    history = run(graph, client, timeout=arguments.timeout)

    saved = [picture for picture in client.images(history) if picture.type == "output"]  # the others are previews
    files = {f"{picture.node_id}_{picture.filename}": picture.data for picture in saved}
    texts = {reports[text.node_id]: text.text for text in client.texts(history) if text.node_id in reports}
    for node_id, text in texts.items():
        files[f"{node_id}_{graph[node_id]['class_type']}_report.json"] = text.encode("utf-8")
    tell_dropped_photos(texts, photos)
    write(arguments.output, files)
    print("\n".join(["written:", *(f"  {arguments.output / name}" for name in sorted(files))]))


def photos_of(folder: Path) -> list[Path]:
    # macOS leaves files such as ._1.jpg beside photos.
    photos = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in PHOTO_EXTENSIONS and not path.name.startswith(".")
    )
    if not photos:
        raise ValueError(f"{folder} has no photo ({', '.join(sorted(PHOTO_EXTENSIONS))}).")
    return photos


def read_graph(file: Path) -> Graph:
    try:
        graph = json.loads(file.read_text(encoding="utf-8"))
        if all("class_type" in node for node in graph.values()):
            return graph
    except (AttributeError, TypeError, ValueError):
        pass
    raise ValueError(f"{file} is no graph in API form. Take one of workflows/api, or ComfyUI's 'Export (API)'.")


def nodes_of(graph: Graph, class_type: str) -> list[dict[str, Any]]:
    """The inputs of every node of a class. Node numbers change when a graph is edited, classes do not."""
    return [node["inputs"] for node in graph.values() if node["class_type"] == class_type]


def fill_in(
    graph: Graph,
    *,
    photos: list[str],
    pose: str | None,
    prompt: str | None,
    weight: float | None,
    seed: int | None,
) -> None:
    loaders, single = nodes_of(graph, "BoLIDLoadReferences"), nodes_of(graph, "LoadImage")
    for loader in loaders:
        loader.update(folder="", files="\n".join(photos))
    if not loaders and len(single) == 1:
        if len(photos) > 1:
            raise ValueError(f"This graph takes one photo, there are {len(photos)}. Choose a graph for many photos.")
        single.pop()["image"] = photos[0]
    elif not loaders:
        raise ValueError("This graph has neither a BoLIDLoadReferences nor a single LoadImage for the photos.")
    if pose is not None:
        if len(single) != 1:
            raise ValueError("This graph has no LoadImage for a pose. Leave out --pose, or choose another graph.")
        single[0]["image"] = pose
    for sampler in nodes_of(graph, "KSampler"):
        if seed is not None:
            sampler["seed"] = seed
        if prompt is not None:
            positive_text(graph, sampler)["text"] = prompt
    for apply in nodes_of(graph, "BoLIDAdapterApply"):
        if weight is not None:
            apply.update(face_weight=weight, body_weight=weight)


def positive_text(graph: Graph, sampler: dict[str, Any]) -> dict[str, Any]:
    """The prompt, up the links named `positive`: a ControlNet may stand between it and the sampler."""
    node = graph[sampler["positive"][0]]
    while node["class_type"] != "CLIPTextEncode":
        if "positive" not in node["inputs"]:
            raise ValueError(f"--prompt: no CLIPTextEncode before {node['class_type']}. Write the text into the graph.")
        node = graph[node["inputs"]["positive"][0]]
    return node["inputs"]


def show_reports(graph: Graph, client: ComfyUIClient) -> dict[str, str]:
    """Add a 'Preview as Text' to every output `report`, which puts it into the results: its id -> id of the node."""
    found = {}
    for node_id, node in list(graph.items()):
        outputs = client.object_info(node["class_type"])["output_name"]
        if "report" in outputs:
            found[f"report_{node_id}"] = node_id
            source = [node_id, outputs.index("report")]
            graph[f"report_{node_id}"] = {"class_type": "PreviewAny", "inputs": {"source": source}}
    return found


def run(graph: Graph, client: ComfyUIClient, *, timeout: float) -> dict[str, Any]:
    """Queue the graph, tell of its progress, and return its history entry."""
    with PromptRun(client, graph, timeout=timeout) as prompt_run:
        try:
            for event in prompt_run:
                match event:
                    case Queued():
                        print(f"waiting: {event.prompts_ahead} ahead", flush=True)
                    case NodeStarted():
                        print(event.node, flush=True)
                    case Step():
                        print(f"{event.node}: step {event.value:g} of {event.maximum:g}", flush=True)
                    case ConnectionLost():
                        print(f"no news for now, the run goes on: {event.reason}", file=sys.stderr)
                    case Failed():
                        raise event.error
                    case Done():
                        history = event.history
        except (KeyboardInterrupt, TimeoutError):
            client.cancel(prompt_run.prompt_id)
            raise
    return history


def tell_dropped_photos(texts: dict[str, str], photos: list[Path]) -> None:
    """Say which photos did not count, and why: a picture of the wrong person often begins here."""
    dropped = {}
    for text in texts.values():
        for entry in json.loads(text).get("photos", ()):
            if entry.get("status") == "dropped":
                dropped.setdefault(entry["photo"], entry["reason"])
    for number, reason in sorted(dropped.items()):
        print(f"{photos[number - 1].name} was left out: {reason}")


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Write a folder that is there with all its files, or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as parent:
        new = Path(parent) / "new"
        new.mkdir()
        for name, data in files.items():
            (new / name).write_bytes(data)
        if folder.exists():
            folder.rmdir()
        new.rename(folder)


if __name__ == "__main__":
    sys.exit(main())
