"""Train and compare the adapters of the experiment in the people world. Started by scripts/experiment."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

RECIPES = Path("world/recipes/adapters")
RUNS = Path("runs/experiment")
PEOPLE, MODELS = Path("data/people"), Path("data/models")
RESULT = "adapter.safetensors"
EVALUATIONS = ("experiment", "experiment_frontier")


@dataclass(frozen=True)
class Variant:
    """A method of the experiment, trained once per seed.

    Attributes:
        recipe: whose settings it has.
        begins_with: the method from whose adapter of the same seed it goes on.
        overrides: settings in the place of the recipe's.
    """

    recipe: str
    begins_with: str | None = None
    overrides: tuple[str, ...] = field(default=())


VARIANTS = {
    "ip_adapter": Variant("ip_adapter"),
    "self_attention": Variant("self_attention", "ip_adapter"),
    # As long as self_attention, and with more weights than its aggregator has, but nothing that looks at nine photos.
    "more_tokens": Variant("ip_adapter", overrides=("run.steps=4000", "adapter.num_tokens=8")),
    "bolid": Variant("bolid", "self_attention"),
    "bolid_without_identity_term": Variant("bolid", "self_attention", ("loss.identity=0.0",)),
    "bolid_with_text_term": Variant(
        "bolid", "self_attention", ("loss.clip=0.05", f"loss.clip_model=local-dir:{MODELS / 'image_text'}")
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/experiment", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each method")
    parser.add_argument("--trainings-only", action="store_true", help="compare nothing yet")
    arguments = parser.parse_args()
    try:
        if not PEOPLE.exists():
            bolid("world", "render", str(PEOPLE), "--pictures", "20")
        if not MODELS.exists():
            weights = os.environ.get("BOLID_WEIGHTS")
            bolid("world", "unpack", str(MODELS), *(("--weights", weights) if weights else ()))
        keypoints = RUNS / "keypoints"
        train("keypoints", output=keypoints)
        for seed in range(arguments.seeds):
            for name, variant in VARIANTS.items():
                train(variant.recipe, output=RUNS / name / f"seed_{seed}", overrides=settings(variant, seed, keypoints))
        if not arguments.trainings_only:
            for name in EVALUATIONS:
                bolid("evaluate", f"evaluation/configs/{name}.toml")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    except KeyboardInterrupt:
        sys.exit("\nstopped; the same command goes on")


def settings(variant: Variant, seed: int, keypoints: Path) -> list[str]:
    """Overrides of a variant's recipe, for one seed."""
    found = [f"run.seed={seed}", *variant.overrides]
    if variant.begins_with is not None:
        found.append(f"adapter.initial={RUNS / variant.begins_with / f'seed_{seed}' / RESULT}")
    if variant.recipe == "bolid":
        found.append(f"loss.keypoint_network={keypoints / RESULT}")
    return found


def train(recipe: str, *, output: Path, overrides: list[str] | None = None) -> None:
    """A training that is done returns at once, one that was stopped goes on."""
    print(f"\n{output}", flush=True)
    bolid("train", str(RECIPES / f"{recipe}.toml"), f"run.output={output}", *(overrides or []))


def bolid(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "bolid", *arguments], check=True)


if __name__ == "__main__":
    main()
