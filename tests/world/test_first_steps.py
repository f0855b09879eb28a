"""The first steps of the recipes give what they gave when the weights that ship were trained."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "world" / "recipes"
FIRST_STEPS = json.loads((RECIPES / "first_steps.json").read_text(encoding="utf-8"))

TOLERANCE = 1e-3
"""Relative. On the machine that trained it, two runs agree in all digits; another processor rounds otherwise."""

SECONDS = 1800


def recipe_of(name: str) -> tuple[Path, list[str]]:
    """File, and the command that trains with it."""
    path = RECIPES / f"{name}.toml"
    return (path, ["world", "train"]) if path.is_file() else (RECIPES / "adapters" / path.name, ["train"])


def test_all_recipes_have_first_steps():
    assert set(FIRST_STEPS) == {path.stem for path in RECIPES.rglob("*.toml")}


@pytest.mark.slow
@pytest.mark.parametrize("name", FIRST_STEPS)
def test_first_steps_repeat(name: str, tmp_path: Path):
    path, command = recipe_of(name)
    expected = FIRST_STEPS[name]
    output, log = tmp_path / "run", tmp_path / "log"
    with log.open("w") as written:
        process = subprocess.Popen(
            [sys.executable, "-m", "bolid", *command, str(path), f"run.output={output}"],
            cwd=ROOT,
            stdout=written,
            stderr=subprocess.STDOUT,
        )
        try:
            found = wait_for_step(expected["step"], output / "metrics.jsonl", process)
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    said = log.read_text(encoding="utf-8")
    if found is None and ("bolid world" in said or "is no file" in said):
        pytest.skip(f"what {path.name} learns from is not there: {said.splitlines()[-1]}")
    assert found is not None, said
    assert found == pytest.approx(expected["loss"], rel=TOLERANCE)


def wait_for_step(step: int, metrics: Path, process: subprocess.Popen[bytes]) -> float | None:
    """The loss of a step; None where the run ended before."""
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        lines = metrics.read_text(encoding="utf-8").splitlines() if metrics.is_file() else []
        for line in map(json.loads, lines):
            if line["kind"] == "train" and line["step"] == step:
                return line["loss"]
        if process.poll() is not None:
            return None
        time.sleep(0.5)
    raise AssertionError(f"no step {step} in {SECONDS} s")
