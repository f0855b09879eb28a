"""An evaluation from its config to its report: every number held against the pictures that it is about."""

from __future__ import annotations

import csv
import json
import re
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from bolid.evaluation.config import EvaluationSettings
from bolid.evaluation.evaluate import evaluate
from bolid.evaluation.pictures import as_floats
from bolid.evaluation.plan import Plan
from bolid.metrics.bootstrap import bootstrap_mean
from bolid.metrics.distributions import frechet_distance
from bolid.metrics.poses import body_proportions, body_ratio_error, detection_rate
from bolid.metrics.similarity import clip_score, image_alignment
from bolid.models.keypoint_network import pixels_to_cells, read_keypoint_network
from bolid.models.keypoints import FIRST_JOINT
from bolid.training.config import LossSettings
from bolid.training.image_text import load_image_text
from bolid.world.networks.recognition import load_recogniser

from ..support.toy_training import SIDE
from .conftest import PEOPLE, PHOTOS, Toy

Row = dict[str, str]


@pytest.fixture(scope="module")
def settings(toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> EvaluationSettings:
    """Three methods: the base, two adapters with two numbers of photos, and somebody else's pictures."""
    folder = tmp_path_factory.mktemp("evaluated")
    methods = {
        "base": {},
        "mine": {"adapters": [str(path) for path in toy.adapters], "references": [1, 4], "target_pose": True},
        "theirs": {"pictures": str(folder / "theirs"), "references": [4]},
    }
    found = toy.settings(
        folder / "out", methods, measures=toy.measures, baseline="base", drawing={"seeds": [0, 7], "steps": 1}
    )
    plan = toy.plan(found)
    for seed in (0, 7):
        (folder / "theirs" / f"seed_{seed}").mkdir(parents=True)
        for request in plan.requests:
            # Photos of the right person: the best that anybody can draw.
            photo = plan.compared(request.person)[request.number]
            Image.open(photo.path).save(folder / "theirs" / f"seed_{seed}" / request.file)
    return found


@pytest.fixture(scope="module")
def summary(settings: EvaluationSettings) -> dict[str, Any]:
    return evaluate(settings)


@pytest.fixture(scope="module")
def plan(toy: Toy, settings: EvaluationSettings) -> Plan:
    return toy.plan(settings)


@pytest.fixture(scope="module")
def results(summary: dict[str, Any]) -> dict[str, Any]:
    return json.loads(Path(summary["results"]).read_text())


def rows_of(path: Path) -> list[Row]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def pictures(settings: EvaluationSettings, summary: dict[str, Any]) -> list[Row]:
    return rows_of(settings.output / "pictures.csv")


def file_of(settings: EvaluationSettings, row: Row) -> Path:
    if row["method"] == "theirs":
        return settings.output.parent / "theirs" / f"seed_{row['seed']}" / row["file"]
    references = row["references"] or "0"
    folder = f"{row['method']}/run_{row['run']}/{references}_photos/guidance_3/seed_{row['seed']}"
    return settings.output / "pictures" / folder / row["file"]


def pixels(path: Path) -> torch.Tensor:
    return as_floats(torch.from_numpy(np.array(Image.open(path).convert("RGB"))).movedim(-1, 0)).unsqueeze(0)


def enlarged(picture: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(picture, 128, mode="bicubic", antialias=True).clamp(-1, 1)


def test_a_row_for_every_picture(settings: EvaluationSettings, pictures: list[Row], plan: Plan) -> None:
    # Of the base, of two runs with two numbers of photos, and of theirs; two pictures and two seeds each.
    assert len(pictures) == (1 + 2 * 2 + 1) * PEOPLE * 2 * 2
    files = {file_of(settings, row) for row in pictures}
    assert len(files) == len(pictures) and all(Image.open(file).size == (SIDE, SIDE) for file in files)
    drawn = set((settings.output / "pictures").rglob("*.png"))
    assert drawn == {file for file in files if "theirs" not in file.parts}


@torch.no_grad()
def test_values_are_those_of_the_picture(
    toy: Toy, settings: EvaluationSettings, pictures: list[Row], plan: Plan
) -> None:
    recogniser, pair = (
        load_recogniser(toy.identity).recogniser,
        load_image_text(LossSettings(clip_model=f"local-dir:{toy.pair}"), device=torch.device("cpu")),
    )
    joints = read_keypoint_network(toy.joints).network
    requests = {request.file: request for request in plan.requests}
    for row in pictures[:: len(pictures) // 5]:
        request, picture = requests[row["file"]], pixels(file_of(settings, row))
        photos = torch.cat([pixels(photo.path) for photo in plan.compared(request.person)])
        likeness = image_alignment(recogniser(enlarged(picture)), recogniser(enlarged(photos)))
        assert float(row["likeness"]) == pytest.approx(float(likeness), abs=1e-5)
        score = clip_score(pair.encode_image(picture), pair.encode_text(request.prompt)[None])
        assert float(row["text"]) == pytest.approx(float(score), abs=1e-5)
        said = joints(pixels_to_cells(picture))
        keypoints = torch.cat((said.positions, said.logits.sigmoid()[..., None]), dim=-1)
        assert float(row["person_found"]) == float(detection_rate(keypoints))


@torch.no_grad()
def test_bones_are_of_all_pictures_of_a_person_by_one_run(
    toy: Toy, settings: EvaluationSettings, pictures: list[Row], plan: Plan
) -> None:
    joints, size = read_keypoint_network(toy.joints).network, torch.tensor([SIDE, SIDE])
    people = rows_of(settings.output / "people.csv")
    assert len(people) == (1 + 2 * 2 + 1) * PEOPLE
    of_one = next(row for row in people if row["method"] == "mine" and row["run"] == "1" and row["references"] == "4")
    same = ("method", "run", "references", "person")
    mine = [row for row in pictures if all(row[key] == of_one[key] for key in same)]
    assert len(mine) == 4
    said = joints(pixels_to_cells(torch.cat([pixels(file_of(settings, row)) for row in mine])))
    keypoints = torch.cat((said.positions, said.logits.sigmoid()[..., None]), dim=-1)
    known = torch.tensor([photo.prepared.keypoints for photo in plan.named(of_one["person"]).photos])
    truth = body_proportions(known[:, FIRST_JOINT:], size)
    expected = body_ratio_error(keypoints, truth, image_sizes=size)
    assert float(of_one["bone_error"]) == pytest.approx(float(expected), abs=1e-5)
    assert float(of_one["likeness"]) == pytest.approx(np.mean([float(row["likeness"]) for row in mine]), abs=1e-6)


def test_means_are_over_people(results: dict[str, Any], pictures: list[Row]) -> None:
    assert [variant["name"] for variant in results["variants"]] == [
        "base, guidance 3",
        "mine, 1 photo, guidance 3",
        "mine, 4 photos, guidance 3",
        "theirs, 4 photos",
    ]
    for variant in results["variants"]:
        by_person = defaultdict(list)
        for row in pictures:
            references = float(row["references"]) if row["references"] else None
            if (row["method"], references) == (variant["method"], variant["references"]):
                by_person[row["person"]].append(float(row["likeness"]))
        assert len(by_person) == PEOPLE
        expected = bootstrap_mean({person: np.mean(values) for person, values in by_person.items()}, resamples=200)
        found = variant["columns"]["likeness"]
        assert [found[key] for key in ("mean", "low", "high")] == pytest.approx(
            [expected.mean, expected.low, expected.high], abs=1e-6
        )
        assert len(found["runs"]) == (2 if variant["method"] == "mine" else 1)
        assert np.mean(found["runs"]) == pytest.approx(found["mean"])


def test_the_right_person_is_told_from_others(results: dict[str, Any]) -> None:
    """By a network of random weights, which sees no more than colours: all that is asked for is the order."""
    bounds, theirs = results["bounds"]["likeness"], results["variants"][-1]["columns"]["likeness"]
    assert bounds["real"]["mean"] > bounds["others"]["mean"]
    assert theirs["mean"] > bounds["others"]["mean"]
    differences = {(each["variant"], each["against"]): each["reason"] for each in results["differences"]}
    assert differences == {
        ("mine, 1 photo, guidance 3", "base, guidance 3"): "baseline",
        ("mine, 4 photos, guidance 3", "base, guidance 3"): "baseline",
        ("mine, 4 photos, guidance 3", "mine, 1 photo, guidance 3"): "one photo",
        ("theirs, 4 photos", "base, guidance 3"): "baseline",
    }


@torch.no_grad()
def test_distances_are_of_the_sets(toy: Toy, settings: EvaluationSettings, results: Any, pictures: list[Row]) -> None:
    recogniser = load_recogniser(toy.attributes).recogniser
    variant = results["variants"][-1]
    drawn = [file_of(settings, row) for row in pictures if row["method"] == "theirs"]
    real = sorted((toy.world / "photos").rglob("*.png"))
    assert (len(drawn), len(real)) == (16, PEOPLE * PHOTOS)
    features = [recogniser(enlarged(torch.cat([pixels(file) for file in files]))) for files in (drawn, real)]
    found = variant["sets"]["world"]
    assert found["frechet"] == pytest.approx(frechet_distance(*features).distance, rel=1e-3)
    assert (found["count"], found["reference_count"], found["width"]) == (16, 24, 8)
    assert found["warnings"] and any("Features world: 16 pictures for" in warning for warning in results["warnings"])
    assert len(results["variants"][1]["sets"]["world"]["runs"]) == 2
    assert results["floors"]["world"]["count"] == 12


def test_results_tell_what_they_were_made_with(toy: Toy, results: dict[str, Any], summary: dict[str, Any]) -> None:
    assert results["fingerprints"]["adapters"].keys() == {str(path) for path in toy.adapters}
    assert len(results["fingerprints"]["networks"]) == 4
    assert results["packages"]["torch"] == torch.__version__.split("+")[0] or results["packages"]["torch"]
    assert "output" not in results["settings"] and results["settings"]["drawing"]["seeds"] == [0, 7]
    assert summary["pictures"] == 6 * 16
    assert summary["summary"]["base, guidance 3"].keys() == {
        "likeness", "text", "attributes", "person_found", "pck", "oks", "pose_error", "bone_error"
    }  # fmt: skip


def test_tables_for_other_programs(settings: EvaluationSettings, results: dict[str, Any]) -> None:
    summary = rows_of(settings.output / "summary.csv")
    mine = [row for row in summary if row["method"] == "mine" and row["references"] == "4"]
    found = {row["column"]: row for row in mine}
    columns = results["variants"][2]["columns"]
    assert list(found) == [*columns, "world_frechet", "world_kernel"]
    like = columns["likeness"]
    assert float(found["likeness"]["mean"]) == pytest.approx(like["mean"], rel=1e-6)
    assert [float(run) for run in found["likeness"]["runs"].split()] == pytest.approx(like["runs"], rel=1e-6)
    assert float(found["likeness"]["real"]) == pytest.approx(results["bounds"]["likeness"]["real"]["mean"], rel=1e-6)
    differences = rows_of(settings.output / "differences.csv")
    assert len(differences) == sum(len(each["columns"]) for each in results["differences"])


class Page(HTMLParser):
    """What a page shows and asks for."""

    def __init__(self, text: str):
        super().__init__()
        self.sources: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_report_holds_everything_itself(summary: dict[str, Any], results: dict[str, Any], plan: Plan) -> None:
    html = Path(summary["report"]).read_text(encoding="utf-8")
    page = Page(html)
    # Parts of a plot refer to each other.
    assert all(source.startswith(("data:image/jpeg;base64,", "#")) for source in page.sources)
    assert not re.search(r"<link|<script|@import|url\((?!#)", html)
    text = " ".join(page.text)
    for variant in results["variants"]:
        assert f"{variant['columns']['likeness']['mean']:.3f}" in text
    for warning in results["warnings"]:
        assert warning in text
    assert page.tags.count("svg") == 2, "likeness and text, numbers of photos"
    # Side by side: references, three methods and a real picture of everybody. Cases: best, median and worst.
    side_by_side = PEOPLE * (1 + 3 + 1)
    cases = 3 * (2 + 1) + 2 * 3 * (1 + 2 + 1)
    assert page.tags.count("figure") == side_by_side + cases
    assert all(person.name in text for person in plan.people)
    assert len(html) < 1_500_000


def test_again_draws_and_asks_nothing_and_finds_the_same(
    settings: EvaluationSettings, summary: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bolid.evaluation import evaluate as module
    from bolid.evaluation.outputs import Outputs

    def never(*arguments: Any, **options: Any) -> None:
        raise AssertionError("drawn or asked again")

    names = (
        "results.json",
        "report.html",
        "pictures.csv",
        "people.csv",
        "summary.csv",
        "differences.csv",
        "plan.jsonl",
    )
    before = {name: (settings.output / name).read_bytes() for name in names}
    monkeypatch.setattr(module, "Drawer", never)
    monkeypatch.setattr(Outputs, "_ask", never)
    assert evaluate(settings) == summary
    assert {name: (settings.output / name).read_bytes() for name in names} == before


def test_another_method_joins_without_drawing_the_others(
    settings: EvaluationSettings, results: dict[str, Any], toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bolid.evaluation import evaluate as module

    drawn: list[str] = []
    draw = module.Drawer.draw

    def spied(self: Any, setting: Any, requests: Any) -> Any:
        drawn.append(setting.variant.method)
        return draw(self, setting, requests)

    monkeypatch.setattr(module.Drawer, "draw", spied)
    extra = toy.settings(settings.output, {"more": {"adapter": str(toy.adapters[1]), "references": [2]}}).methods
    more = settings.model_copy(update={"methods": {**settings.methods, **extra}})
    evaluate(more)
    assert drawn and set(drawn) == {"more"}
    found = json.loads((settings.output / "results.json").read_text())
    assert found["variants"][:4] == results["variants"] and found["variants"][4]["method"] == "more"


def test_other_settings_draw_no_second_kind_of_pictures_into_a_folder(
    settings: EvaluationSettings, summary: dict[str, Any]
) -> None:
    changed = settings.model_copy(update={"drawing": settings.drawing.model_copy(update={"steps": 2})})
    with pytest.raises(ValueError, match="were drawn from something else: drawing.steps was 1, now 2. Set it back"):
        evaluate(changed)
