"""Text: a picture with its own words, and with those of others."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bolid.evaluation.measure import Portraits
from bolid.evaluation.outputs import Outputs
from bolid.evaluation.pictures import shown_photo
from bolid.evaluation.sources import Source
from bolid.evaluation.wording import Text
from bolid.metrics.similarity import clip_score

from .conftest import SIDE, Said, Toy

PAIR = Source("pair", Path("pair"))


def embeds(count: int, *, seed: int) -> torch.Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))


def test_scores_of_pictures_photos_and_other_texts(toy: Toy, tmp_path: Path) -> None:
    plan = toy.plan(toy.settings(tmp_path, {"base": {}}))
    prompts = list(dict.fromkeys(request.prompt for request in plan.requests))
    texts = dict(zip(prompts, embeds(len(prompts), seed=1), strict=True))
    keys = list(dict.fromkeys(shown_photo(request.model).key for request in plan.requests))
    photos = dict(zip(keys, embeds(len(keys), seed=2), strict=True))
    pictures = dict(zip("ab", embeds(2, seed=3), strict=True))
    said = {key: {"embeds": row} for key, row in {**photos, **pictures}.items()}
    measure = Text(PAIR, Said(said, texts), plan)

    person = plan.people[1]
    requests = [request for request in plan.requests if request.person is person]
    rows = measure.of_pictures(Portraits(person=person, keys=["a", "b"], requests=requests))
    asked = torch.stack([texts[request.prompt] for request in requests])
    expected = clip_score(torch.stack([pictures["a"], pictures["b"]]), asked)
    assert [row["text"] for row in rows] == pytest.approx(expected.tolist())

    real = measure.real(person)
    assert real.keys == [shown_photo(request.model).key for request in requests]
    shown = torch.stack([photos[key] for key in real.keys])
    assert [row["text"] for row in measure.of_pictures(real)] == pytest.approx(clip_score(shown, asked).tolist())
    theirs = torch.stack([texts[request.prompt] for request in plan.requests if request.person is not person])
    cosines = torch.cosine_similarity(shown[:, None], theirs[None], dim=-1)
    assert measure.others(person)["text"] == pytest.approx(float(cosines.mean()), rel=1e-5)


def test_texts_are_asked_about_once_each(toy: Toy, tmp_path: Path) -> None:
    plan = toy.plan(toy.settings(tmp_path, {"base": {}}, drawing={"prompts": ["a person", "somebody"]}))
    told: list[tuple[str, int, int]] = []
    outputs = Outputs(
        folder=tmp_path,
        resolution=SIDE,
        batch_size=4,
        device=torch.device("cpu"),
        progress=lambda stage, done, total, note="": told.append((stage, done, total)),
    )
    source = Source("pair", toy.pair, "measures.text")
    measure = Text(source, outputs, plan)
    measure.fill([])
    assert told[-1] == ("texts", 2, 2)
    assert outputs.text(source, "a person").shape == (64,)
    # Nothing real belongs to texts that somebody made up.
    assert measure.real(plan.people[0]) is None and measure.others(plan.people[0]) == {"text": None}
