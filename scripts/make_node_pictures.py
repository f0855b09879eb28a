"""Make the pictures of the help pages, web/docs/NODE.jpg: each node between those that it is usually connected to.

For developers, after a node's inputs have changed; scripts/test sets up what it needs:

    .venv/bin/python scripts/make_node_pictures.py [NODE ...]

The neighbours are those of the bundled workflow that NEIGHBOURS names, of OWN_GRAPHS, or of the first workflow that has
the node.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

from make_workflows import WORKFLOWS, frontend, jpeg, picture_of  # noqa: E402

HELP = ROOT / "web" / "docs"
MAX_BYTES = 40_000
GAP = 70

Prompt = dict[str, dict[str, Any]]


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


PHOTOS = node("BoLIDLoadReferences", folder="anna", files="")
OWN_GRAPHS: dict[str, Prompt] = {
    "BoLIDDetectFaces": {
        "1": PHOTOS,
        "2": node("BoLIDFaceAnalysisLoader", model_pack="buffalo_l", provider="CPU"),
        "3": node("BoLIDDetectFaces", images=["1", 0], face_analysis=["2", 0], face_choice="largest"),
        "4": node("PreviewImage", images=["3", 0]),
    },
    "BoLIDNoiseReference": {
        "1": PHOTOS,
        "2": node("BoLIDNoiseReference", images=["1", 0]),
        "3": node("MultiRefImageEncoder", images=["2", 0]),
    },
    "BoLIDSaveEmbeds": {
        "1": node("MultiRefImageEncoder"),
        "2": node("PoolingAggregator", references=["1", 0]),
        "3": node("BoLIDSaveEmbeds", embeds=["2", 0], filename_prefix="bolid/anna"),
    },
    "BoLIDLoadEmbeds": {
        "1": node("BoLIDLoadEmbeds"),
        "2": node("BoLIDAdapterApply", face=["1", 0]),
    },
    "BoLIDDemoPoseDetector": {
        "1": node("BoLIDDemoPhotos", person="person_802", first=1, count=9),
        "2": node("BoLIDDemoPoseDetector", images=["1", 0]),
        "3": node("BodyLandmarkEncoder", images=["1", 0], pose_keypoint=["2", 0]),
    },
}

NEIGHBOURS = {
    "BodyLandmarkEncoder": "nine_photos_self_attention_body",
    "BoLIDAdapterApply": "plus_sd15",
    "BoLIDAdapterLoader": "plus_sd15",
    "BoLIDDemoModelLoader": "many_photos_max",
    "BoLIDLoadReferences": "plus_sd15",
    "MultiRefImageEncoder": "plus_sd15",
    "PoolingAggregator": "plus_sd15",
}

ARRANGE = """async ({api, type, gap}) => {
    await app.loadApiJson(api, type);
    const graph = app.graph;
    for (const node of graph._nodes) {
        const size = node.computeSize();
        node.setSize([Math.max(size[0], 320), size[1]]);
        if (node.type === type) node.bgcolor = "#3c5230";
    }
    graph.arrange(gap);
    return JSON.parse(JSON.stringify(graph.serialize()));
}"""


def main() -> None:
    names = sorted(file.stem for file in HELP.glob("*.md"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NODE", help=f"of {', '.join(names)}; all of them by default")
    chosen = parser.parse_args().names or names
    if unknown := set(chosen) - set(names):
        parser.error(f"web/docs has no page of {', '.join(sorted(unknown))}")
    graphs = {name: OWN_GRAPHS.get(name) or neighbourhood(name) for name in chosen}
    with frontend(parser, graphs.values()) as page:
        for name, prompt in graphs.items():
            graph = page.evaluate(ARRANGE, {"api": prompt, "type": name, "gap": GAP})
            picture = jpeg(picture_of(page, graph), max_bytes=MAX_BYTES)
            (HELP / f"{name}.jpg").write_bytes(picture)
            print(f"{name}: {len(graph['nodes'])} nodes, picture of {len(picture) / 1000:.0f} kB")


def neighbourhood(name: str) -> Prompt:
    """The first node of a class in the bundled workflows, and all that it is connected to."""
    for file in sorted((WORKFLOWS / "api").glob(f"{NEIGHBOURS.get(name, '*')}.json")):
        prompt: Prompt = json.loads(file.read_text(encoding="utf-8"))
        middle = next((node_id for node_id, node in prompt.items() if node["class_type"] == name), None)
        if middle is not None:
            break
    else:
        raise LookupError(name)  # it needs a graph in OWN_GRAPHS
    kept = {middle, *sources(prompt[middle])}
    kept |= {node_id for node_id, node in prompt.items() if middle in sources(node)}
    cut = {node_id: copy.deepcopy(node) for node_id, node in prompt.items() if node_id in kept}
    for node_id, node in cut.items():
        node["inputs"] = {
            key: value
            for key, value in node["inputs"].items()
            if not isinstance(value, list) or (value[0] in kept and middle in (node_id, value[0]))
        }
    return cut


def sources(node: dict[str, Any]) -> set[str]:
    return {value[0] for value in node["inputs"].values() if isinstance(value, list)}


if __name__ == "__main__":
    main()
