"""`scripts/bench [NAME ...]`: run the measurements and print their tables as Markdown."""

from __future__ import annotations

import argparse
import importlib
import logging
import sys

MEASUREMENTS = {
    "step_time": "time of one sampling step: no adapter, BoLID, classic per-step projection",
    "step_flops": "counted floating-point operations of one sampling step, the same three",
    "branches": "time of one sampling step with one, two and three image branches",
    "pose": "finding the person in a photo, and its parts",
    "latency": "loading and applying an adapter of SDXL-plus size",
    "device_bytes": "bytes on the device while sampling",
    "import_time": "import of the pack beyond ComfyUI's own",
    "recompute": "what runs again when only a weight changes",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures BoLID beside the alternatives. Run it on an otherwise idle machine.",
        epilog="\n".join(f"{name:14} {what}" for name, what in MEASUREMENTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="measurements to run; all by default")
    names = parser.parse_args().names or list(MEASUREMENTS)
    unknown = [name for name in names if name not in MEASUREMENTS]
    if unknown:
        parser.error(f"unknown measurement {unknown[0]!r}; choose from {', '.join(MEASUREMENTS)}")
    logging.basicConfig(level=logging.ERROR)
    for name in names:
        print(f"\n## {name}: {MEASUREMENTS[name]}\n", flush=True)
        importlib.import_module(f"{__package__}.{name}").run()
        sys.stdout.flush()


if __name__ == "__main__":
    main()
