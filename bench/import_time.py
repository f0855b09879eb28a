"""Import of the pack, in a fresh process in which ComfyUI and its own nodes are loaded already."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

from .tables import print_table

REPEATS = 5

PROGRAM = """
import asyncio, json, os, sys, time
sys.path.insert(0, os.environ["COMFYUI_DIR"])
from comfy.cli_args import args
args.cpu = True
import nodes
asyncio.run(nodes.init_builtin_extra_nodes())
before = set(sys.modules)
start = time.perf_counter()
import bolid
async def load():
    extension = await bolid.comfy_entrypoint()
    await extension.on_load()
    return [node.GET_SCHEMA() for node in await extension.get_node_list()]
asyncio.run(load())
seconds = time.perf_counter() - start
new = {name.split(".")[0] for name in set(sys.modules) - before}
print(json.dumps({"seconds": seconds, "new": sorted(new - {"bolid"})}))
"""


def run() -> None:
    results = [
        json.loads(
            subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
            .stdout.strip()
            .splitlines()[-1]
        )
        for _ in range(REPEATS)
    ]
    milliseconds = [1000 * result["seconds"] for result in results]
    print_table(
        ["median", "fastest", "slowest", "packages that ComfyUI had not imported"],
        [
            [
                *(f"{figure(milliseconds):.0f} ms" for figure in (statistics.median, min, max)),
                ", ".join(results[0]["new"]) or "none",
            ]
        ],
    )
