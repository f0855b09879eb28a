"""What a real server runs again when only face_weight changes."""

from __future__ import annotations

import copy
import json
import os
import sys
import time
from pathlib import Path

from .tables import print_table

ROOT = Path(__file__).resolve().parent.parent
WORKFLOW = ROOT / "workflows" / "api" / "many_photos_averaged.json"


def run() -> None:
    sys.path[:0] = [str(ROOT / "clients"), str(ROOT / "scripts")]
    from io import BytesIO

    from local_server import LocalServer
    from photographs import carphone_frames

    prompt = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    apply = next(node for node in prompt.values() if node["class_type"] == "BoLIDAdapterApply")
    with LocalServer(comfyui_dir=os.environ["COMFYUI_DIR"], packs={"BoLID": ROOT}) as server:
        for number, frame in enumerate(carphone_frames(5)):
            data = BytesIO()
            frame.save(data, "PNG")
            server.client.upload_image(data.getvalue(), name=f"{number}.png", subfolder="bolid_demo")
        rows = []
        for what, weight in (("first run", 1.0), ("face_weight changed", 0.5), ("nothing changed", 0.5)):
            apply["inputs"]["face_weight"] = weight
            start = time.perf_counter()
            history = server.client.wait(server.client.queue(copy.deepcopy(prompt)))
            seconds = time.perf_counter() - start
            cached = {
                node
                for name, message in history["status"]["messages"]
                if name == "execution_cached"
                for node in message["nodes"]
            }
            ran = [node["class_type"] for number, node in prompt.items() if number not in cached]
            rows.append([what, f"{seconds:.2f} s", ", ".join(ran) or "nothing"])
    print_table(["run", "seconds", "nodes that ran"], rows)
