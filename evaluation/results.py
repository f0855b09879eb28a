"""What an evaluation has found, as JSON and as CSV."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..training.config import resolved
from ..training.files import write_text
from ..training.work_folder import environment
from .comparison import CONFIDENCE, Comparison
from .config import EvaluationSettings
from .measure import Column
from .measuring import Measured
from .plan import Plan, Variant
from .sets import SetDistances
from .table import TOLD_APART, described, rows_to

FORMAT = 1
"""Of results.json; to be raised when it means something else."""


def results_of(
    settings: EvaluationSettings,
    plan: Plan,
    columns: Sequence[Column],
    measured: Measured,
    *,
    fingerprints: Mapping[str, Any],
    warnings: Sequence[str],
) -> dict[str, Any]:
    """Everything as JSON values, the same each time: without times, hosts, and the folder.

    Args:
        settings: of the evaluation.
        plan: what was drawn.
        columns: that were measured.
        measured: all numbers.
        fingerprints: of models and networks.
        warnings: that belong beside the numbers.
    """
    comparison = Comparison(settings, measured.table, columns)
    variants = plan.variants()
    pictures = len(plan.requests) * len(settings.drawing.seeds)
    return {
        "format": FORMAT,
        "settings": {key: value for key, value in resolved(settings).items() if key != "output"},
        "fingerprints": dict(fingerprints),
        "packages": environment()["packages"],
        "people": len(plan.people),
        "pictures_per_run": pictures,
        "confidence": CONFIDENCE,
        "columns": {column.name: asdict(column) for column in columns},
        "bounds": comparison.bounds(),
        "variants": [
            {
                "name": variant.name,
                **described(variant),
                "runs": [str(path) for path in settings.methods[variant.method].adapter_files],
                "columns": comparison.summary(variant),
                "sets": {name: _sets(runs) for name, runs in measured.sets[variant].items()},
            }
            for variant in variants
        ],
        "floors": {name: asdict(floor) for name, floor in measured.floors.items()},
        "differences": [
            {**difference, "variant": difference["variant"].name, "against": difference["against"].name}
            for difference in comparison.differences(variants)
        ],
        "warnings": [*warnings, *_warnings(plan, columns, measured)],
    }


def write_results(folder: Path, results: Mapping[str, Any]) -> None:
    """Write results.json, summary.csv and differences.csv."""
    write_text(folder / "results.json", json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    interval = ["mean", "low", "high", "people"]
    bounds = ["real", "others"]
    head = [*TOLD_APART]
    shares = ["gap_closed", "gap_closed_from_baseline"]
    with rows_to(folder / "summary.csv", [*head, "column", *interval, *bounds, *shares, "runs"]) as rows:
        for variant in results["variants"]:
            told = {name: variant[name] for name in head}
            for column, found in variant["columns"].items():
                values = {name: found[name] for name in interval}
                reached = {name: _mean(results["bounds"][column][name]) for name in bounds}
                closed = {name: _mean(found[name]) for name in shares}
                runs = " ".join(f"{mean:.7g}" for mean in found["runs"])
                rows.write({**told, "column": column, **values, **reached, **closed, "runs": runs})
            for name, sets in variant["sets"].items():
                for kind in ("frechet", "kernel", "inception"):
                    if sets is not None and sets[kind] is not None:
                        runs = " ".join(f"{each[kind]:.7g}" for each in sets["runs"])
                        floor = results["floors"].get(name, {}).get(kind)
                        told_set = {"column": f"{name}_{kind}", "mean": sets[kind], "real": floor, "runs": runs}
                        rows.write({**told, **told_set})
    with rows_to(folder / "differences.csv", ["variant", "against", "reason", "column", *interval]) as rows:
        for difference in results["differences"]:
            told = {name: difference[name] for name in ("variant", "against", "reason")}
            for column, found in difference["columns"].items():
                rows.write({**told, "column": column, **found})


def _sets(runs: Sequence[SetDistances | None]) -> dict[str, Any] | None:
    """Means over the runs, and each of them."""
    found = [run for run in runs if run is not None]
    if not found:
        return None
    scores = [run.inception for run in found if run.inception is not None]
    return {
        **asdict(found[0]),
        "frechet": sum(run.frechet for run in found) / len(found),
        "kernel": sum(run.kernel for run in found) / len(found),
        "inception": sum(scores) / len(scores) if scores else None,
        "runs": [{"frechet": run.frechet, "kernel": run.kernel, "inception": run.inception} for run in found],
    }


def _warnings(plan: Plan, columns: Sequence[Column], measured: Measured) -> list[str]:
    """What a reader of the numbers has to know."""
    variants: list[Variant] = plan.variants()
    found = []
    for column in columns:
        people = {len(measured.table.variants[variant].by_person(column.name)) for variant in variants}
        asked = max(people)
        if not asked:
            found.append(f"{column.name}: nobody can be asked this; none of the photos shows what it takes.")
        elif asked < len(plan.people) and not column.is_detail:
            found.append(f"{column.name}: {asked} of {len(plan.people)} people can be asked this.")
        reached = measured.table.real.by_person(column.name)
        if column.name == "person_found" and reached and not any(reached.values()):
            found.append(f"{column.name}: not even in the photos is anybody found; this network does not see them.")
    for name, floor in measured.floors.items():
        sets = [distance for variant in variants for distance in measured.sets[variant][name] if distance is not None]
        told = [warning for distances in (*sets, floor) for warning in distances.warnings]
        found += [f"Features {name}: {warning}" for warning in dict.fromkeys(told)]
    return found


def _mean(interval: Mapping[str, Any] | None) -> float | None:
    return None if interval is None else interval["mean"]
