"""`scripts/bench [NAME ...]`: run the measurements and print their tables as Markdown."""

from __future__ import annotations

import argparse
import gc
import importlib
import inspect
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
    "leave_one_out": "training step with cached features against encoding every photo at every step",
    "training_step": "training step against a bare forward and backward pass, and what each term of the loss costs",
    "training_memory": "peak memory of a training step",
    "prepare": "bolid prepare with one process and with one per core",
    "measuring": "bolid evaluate's measures beside their networks alone, and its memory",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="scripts/bench",
        description="Measures BoLID beside the alternatives. Run it on an otherwise idle machine.",
        epilog="\n".join(f"{name:16} {what}" for name, what in MEASUREMENTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="measurements to run; all by default")
    parser.add_argument(
        "--rounds", type=int, help="interleaved rounds (leave_one_out, training_step, prepare, measuring)"
    )
    parser.add_argument("--resolution", type=int, help="side of the pictures (leave_one_out, training_step)")
    parser.add_argument("--clip-model", help="an open_clip model for the text term (training_step)")
    parser.add_argument(
        "--tiny",
        action="store_true",
        default=None,
        help="small models and few photos, only to see that it runs (training and measuring)",
    )
    given = vars(parser.parse_args())
    names = given.pop("names") or list(MEASUREMENTS)
    options = {name: value for name, value in given.items() if value is not None}
    unknown = [name for name in names if name not in MEASUREMENTS]
    if unknown:
        parser.error(f"unknown measurement {unknown[0]!r}; choose from {', '.join(MEASUREMENTS)}")
    logging.basicConfig(level=logging.ERROR)
    measurements = {name: importlib.import_module(f"{__package__}.{name}").run for name in names}
    for name, run in measurements.items():
        for option in options.keys() - inspect.signature(run).parameters:
            parser.error(f"{name} has no --{option.replace('_', '-')}")
    for name, run in measurements.items():
        print(f"\n## {name}: {MEASUREMENTS[name]}\n", flush=True)
        run(**options)
        sys.stdout.flush()
        gc.collect()  # the next one may need all the memory


if __name__ == "__main__":
    main()
