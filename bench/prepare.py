"""`bolid prepare` with one process and with one per core, on parts of real photographs."""

from __future__ import annotations

import os
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from .evaluations import TRAINING_ROUNDS, seconds_in_turns
from .models import folder_for_files
from .tables import median_and_range, print_table, ratios

PHOTOS, PHOTOS_PER_PERSON = 120, 6


def run(rounds: int = TRAINING_ROUNDS, tiny: bool = False) -> None:
    photos, cores = PHOTOS_PER_PERSON if tiny else PHOTOS, len(os.sched_getaffinity(0))
    with folder_for_files() as name:
        source = Path(name, "photos")
        _write_photographs(source, photos)
        one, several = seconds_in_turns([_prepare(source, 1), _prepare(source, cores)], rounds)
    print(
        f"{photos} photos of 1024 to 1536 pixels on their longer side, {cores} cores; the whole command, into a new "
        f"folder each time; {rounds} interleaved rounds; median, smallest and largest.\n"
    )
    print_table(
        ["processes", "seconds", "photos per second", "times as fast as one"],
        [
            [
                workers,
                median_and_range(seconds),
                f"{photos / statistics.median(seconds):.1f}",
                median_and_range(ratios(one, seconds)),
            ]
            for workers, seconds in ((1, one), (cores, several))
        ],
    )


def _prepare(source: Path, workers: int) -> Callable[[], None]:
    # All photos are looked at and kept, whoever is in them.
    settings = ["--near-duplicates=-1", "--max-people=0", f"--workers={workers}"]

    def action() -> None:
        with tempfile.TemporaryDirectory(dir=source.parent) as output:
            command = [sys.executable, "-m", "bolid", "prepare", str(source), output, *settings]
            finished = subprocess.run(command, capture_output=True, text=True)
            if finished.returncode:
                raise RuntimeError(f"bolid prepare ended with {finished.returncode}: {finished.stderr}")

    return action


def _write_photographs(source: Path, count: int) -> None:
    """Folders of `PHOTOS_PER_PERSON` photos, each a part of a photograph in another size."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
    from photographs import PHOTOGRAPHS, photograph

    generator = random.Random(0)
    photographs = [photograph(name) for name in PHOTOGRAPHS]
    for number in range(count):
        whole = photographs[number % len(photographs)]
        width, height = (round(side * generator.uniform(0.7, 1.0)) for side in whole.size)
        left, top = generator.randint(0, whole.width - width), generator.randint(0, whole.height - height)
        scale = generator.uniform(1024, 1536) / max(width, height)
        part = whole.crop((left, top, left + width, top + height))
        folder = source / f"person_{number // PHOTOS_PER_PERSON}"
        folder.mkdir(parents=True, exist_ok=True)
        part.resize((round(width * scale), round(height * scale))).save(folder / f"{number}.jpg", quality=90)
