"""What a user finds of every node in ComfyUI's frontend, in every language of locales/: search, help page, tooltips."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from comfy_api.v0_0_2 import io
from local_server import LocalServer

from bolid.nodes import NODES, register_model_folders

from ..conftest import ROOT
from .conftest import FAILED, READY

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page

pytestmark = [pytest.mark.browser, pytest.mark.server]

LANGUAGES = ["en", *sorted(folder.name for folder in (ROOT / "locales").iterdir() if folder.is_dir())]
PAGES = ROOT / "web" / "docs"
# Far enough that no node hides another, or comes into view beside it.
DISTANCE = 2000
PLACE_NODES = """([types, distance]) => {
    app.graph.clear();
    types.forEach((type, index) => {
        const node = LiteGraph.createNode(type);
        node.pos = [distance * index, 0];
        app.graph.add(node);
    });
}"""
# Which nodes lie under the mouse is known once they are drawn.
LOOK_AT = """([x, y]) => {
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [400 - x, 300 - y];
    app.canvas.setDirty(true, true);
    return new Promise((drawn) => requestAnimationFrame(() => requestAnimationFrame(drawn)));
}"""
RESULTS = """() => [...document.querySelectorAll("[data-testid='result-item']")]
    .map((item) => item.innerText.split("\\n")[0])"""
HELP = ".node-help-content .markdown-content"
PICTURES_ARE_LOADED = f"() => [...document.querySelectorAll('{HELP} img')].every((picture) => picture.complete)"
DEFINITION = """(type) => {
    const { inputs, outputs } = LiteGraph.registered_node_types[type].nodeData;
    return {
        inputs: Object.fromEntries(Object.values(inputs).map((given) => [given.name, given.tooltip])),
        outputs: Object.fromEntries(outputs.map((given) => [given.name, given.tooltip])),
    };
}"""
# Where the middle of a title, a socket or a widget is in the window.
POSITION = """([type, kind, name]) => {
    const node = app.graph._nodes.find((node) => node.type === type);
    const slot = (slots) => slots.findIndex((slot) => slot.name === name);
    const widget = node.widgets?.find((widget) => widget.name === name);
    return app.canvasPosToClientPos({
        title: () => [node.pos[0] + node.size[0] / 2, node.pos[1] - 15],
        inputs: () => node.getInputPos(slot(node.inputs)),
        outputs: () => node.getOutputPos(slot(node.outputs)),
        widget: () => [node.pos[0] + node.size[0] / 2, node.pos[1] + widget.y + widget.computedHeight / 2],
    }[kind]());
}"""
# Its outputs say nothing yet.
WITHOUT_OUTPUT_TOOLTIPS = {"BoLIDDemoModelLoader"}


@cache
def schemas() -> dict[str, io.Schema]:
    register_model_folders()
    return {node.GET_SCHEMA().node_id: node.GET_SCHEMA() for node in NODES}


@pytest.fixture(scope="module", params=LANGUAGES)
def language(request: pytest.FixtureRequest, server: LocalServer) -> Iterator[str]:
    """The server keeps the frontend's settings; its other users expect English."""
    server.client.set_setting("Comfy.Locale", request.param)
    yield request.param
    server.client.set_setting("Comfy.Locale", "en")


@pytest.fixture(scope="module")
def context(chromium: Browser) -> Iterator[BrowserContext]:
    """Keeps what the first page has fetched for the others."""
    context = chromium.new_context(viewport={"width": 1600, "height": 1000})
    yield context
    context.close()


@pytest.fixture(scope="module")
def page(context: BrowserContext, server: LocalServer, language: str) -> Iterator[Page]:
    """One page per language, with every node in a row."""
    page = context.new_page()
    page.goto(server.address, timeout=120_000)
    page.wait_for_function(READY, timeout=120_000)
    page.evaluate(PLACE_NODES, [list(schemas()), DISTANCE])
    yield page
    page.close()


@pytest.fixture(autouse=True)
def picture_of_a_failure(request: pytest.FixtureRequest, page: Page, tmp_path: Path) -> Iterator[None]:
    yield
    if request.node.stash.get(FAILED, False):
        page.screenshot(path=tmp_path / "failure.png")


@pytest.fixture
def texts(language: str) -> dict[str, dict[str, Any]]:
    """Node id -> what locales/ says of it, or in English the schema."""
    if language != "en":
        return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text(encoding="utf-8"))
    return {
        node_id: {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": {given.id: {"tooltip": given.tooltip} for given in schema.inputs},
            "outputs": {str(number): {"tooltip": given.tooltip} for number, given in enumerate(schema.outputs)},
        }
        for node_id, schema in schemas().items()
    }


def look_at(page: Page, node_id: str) -> None:
    page.evaluate(LOOK_AT, [list(schemas()).index(node_id) * DISTANCE, 0])


def select(page: Page, node_id: str) -> None:
    look_at(page, node_id)
    x, y = page.evaluate(POSITION, [node_id, "title", None])
    # Two clicks at one place are a double click, which would open the title for editing.
    page.mouse.click(x - 40 + 80 * (list(schemas()).index(node_id) % 2), y)


# Search


def test_the_search_lists_every_node_by_each_of_its_names(page: Page, language: str, texts: dict[str, dict[str, Any]]):
    """By its name in this language. The ids and the aliases are the same in every language: once is enough."""
    expected: dict[str, set[str]] = defaultdict(set)
    for node_id, schema in schemas().items():
        shown = texts[node_id]["display_name"]
        names = [node_id, "BoLID", *schema.search_aliases] if language == "en" else []
        for query in [searchable(shown), *names]:
            expected[query].add(shown)

    page.evaluate(LOOK_AT, [0, 5000])
    field = open_search(page)
    missing = {}
    for query, nodes in expected.items():
        field.fill(query)
        if lacking := nodes - set(page.evaluate(RESULTS)):
            missing[query] = lacking
    field.fill("a name that nothing has")
    nothing = page.evaluate(RESULTS)
    page.keyboard.press("Escape")
    field.wait_for(state="hidden")
    assert missing == {}
    assert nothing == []


def searchable(name: str) -> str:
    """As much of a name as can be typed: words that begin behind the 30th character are not looked for.

    The frontend gives Fuse a threshold of 0.3 and leaves its distance at 100.
    """
    return " ".join(word.group() for word in re.finditer(r"\S+", name) if word.start() <= 30)


def open_search(page: Page) -> Locator:
    from playwright.sync_api import TimeoutError

    field = page.locator("input[role=combobox]")
    for _ in range(10):
        page.mouse.dblclick(800, 500)
        try:
            field.wait_for(timeout=3000)
        except TimeoutError:
            # On a busy machine the second click may come too late.
            continue
        return field
    pytest.fail("the search did not open at a double click")


# Help pages


def help_page(node_id: str, language: str) -> Path:
    """The file that the frontend takes."""
    translated = PAGES / node_id / f"{language}.md"
    return translated if translated.exists() else PAGES / f"{node_id}.md"


def test_the_help_pages_open_and_are_shown_whole(page: Page, language: str):
    # The pages without a translation are the same ones in every language: one shows that they are found.
    pages = {node_id: help_page(node_id, language) for node_id in schemas()}
    translated = [node_id for node_id, file in pages.items() if file.parent != PAGES]
    others = [node_id for node_id in pages if node_id not in translated]
    for node_id in translated + (others if language == "en" else others[:1]):
        markdown = pages[node_id].read_text(encoding="utf-8")
        headings = re.findall(r"^#+ (.+)$", markdown, flags=re.MULTILINE)
        select(page, node_id)
        if not page.locator(HELP).count():
            page.get_by_test_id("info-button").click()
        page.locator(f"{HELP} h1", has_text=re.compile(f"^{re.escape(headings[0])}$")).wait_for()
        page.wait_for_function(PICTURES_ARE_LOADED)
        shown = page.locator(HELP)
        assert shown.locator("h1, h2, h3").all_text_contents() == headings, node_id
        # Word for word: nothing is taken for a tag, and nothing stays as markup.
        assert letters(shown.text_content()) == letters(without_markup(markdown)), node_id
        assert not re.search(r"\*\*|`|\]\(|</?\w+ ?/?>", shown.text_content()), node_id
        pictures = shown.locator("img").evaluate_all("(all) => all.map((one) => [one.src, one.naturalWidth])")
        assert len(pictures) == markdown.count("![") and all(width for _, width in pictures), (node_id, pictures)
        # What reads like an e-mail address would become a link.
        links = shown.locator("a").evaluate_all("(all) => all.map((one) => one.getAttribute('href'))")
        assert links == re.findall(r"(?<!!)\[[^\]]*\]\(([^)]*)\)", markdown), node_id


def without_markup(markdown: str) -> str:
    for pattern, left in ((r"^\s*```\w*$", ""), (r"^\s*\d+\. ", ""), (r"!\[[^\]]*\]\([^)]*\)", "")):
        markdown = re.sub(pattern, left, markdown, flags=re.MULTILINE)
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", markdown)


def letters(text: str) -> str:
    return re.sub(r"[\W_]", "", text)


# Tooltips


def test_every_input_and_output_has_a_tooltip(page: Page):
    for node_id, schema in schemas().items():
        definition = page.evaluate(DEFINITION, node_id)
        assert definition["inputs"] == {given.id: given.tooltip for given in schema.inputs}, node_id
        assert all(definition["inputs"].values()), node_id
        assert len(definition["outputs"]) == len(schema.outputs)
        assert all(definition["outputs"].values()) or node_id in WITHOUT_OUTPUT_TOOLTIPS, node_id


@pytest.mark.parametrize(
    ("kind", "name", "entry"),
    [
        ("title", None, ["description"]),
        ("inputs", "face", ["inputs", "face", "tooltip"]),
        ("widget", "face_weight", ["inputs", "face_weight", "tooltip"]),
        ("outputs", "model", ["outputs", "0", "tooltip"]),
    ],
)
def test_the_mouse_brings_up_the_tooltip(
    kind: str, name: str | None, entry: list[str], page: Page, texts: dict[str, dict[str, Any]]
):
    expected: Any = texts["BoLIDAdapterApply"]
    for key in entry:
        expected = expected[key]
    look_at(page, "BoLIDAdapterApply")
    x, y = page.evaluate(POSITION, ["BoLIDAdapterApply", kind, name])
    # A tooltip comes when the mouse rests, and goes when it moves.
    page.mouse.move(x, y + 400)
    page.mouse.move(x, y, steps=3)
    tooltip = page.locator(".node-tooltip:visible")
    tooltip.wait_for()
    assert tooltip.inner_text() == expected


def test_a_text_field_has_a_tooltip_of_the_browser(page: Page, texts: dict[str, dict[str, Any]]):
    look_at(page, "BoLIDLoadReferences")
    field = page.locator(".dom-widget:visible")
    field.wait_for()
    (english,) = [given.tooltip for given in schemas()["BoLIDLoadReferences"].inputs if given.id == "files"]
    # The frontend does not translate this one.
    assert field.get_attribute("title") in (english, texts["BoLIDLoadReferences"]["inputs"]["files"]["tooltip"])
