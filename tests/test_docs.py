"""The documents say what the code says: pages, ids, ranges, links, commands, messages, translations, HTTP example."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import comfyui_frontend_package
import pytest
import requests
from comfy_api.v0_0_2 import io
from local_server import LocalServer
from PIL import Image

from bolid.nodes import NODES, register_model_folders

ROOT = Path(__file__).resolve().parent.parent
README, AGENTS = ROOT / "README.md", ROOT / "AGENTS.md"
TROUBLESHOOTING = ROOT / "docs" / "troubleshooting.md"
HELP = ROOT / "web" / "docs"
PAGES = [README, AGENTS, ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOMS_WITH_FILES = (
    "nodes",
    "models",
    "migration",
    "hosts",
    "detectors",
    "catalogue",
    "training",
    "world",
    "world/networks",
    "evaluation",
    "commands",
    "metrics",
    "clients",
    "clients/examples",
    "scripts",
)
NO_ROOMS = ("build", "data", "output", "runs", "weights")
"""Folders that commands write."""

LOCALES = sorted(path.name for path in (ROOT / "locales").iterdir() if path.is_dir())


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def schemas() -> dict[str, io.Schema]:
    register_model_folders()
    return {node.GET_SCHEMA().node_id: node.GET_SCHEMA() for node in NODES}


NODE_IDS = [node.__name__ for node in NODES]


def section(page: str, title: str) -> str:
    """What stands under a heading of level 2."""
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", page, flags=re.MULTILINE | re.DOTALL)
    assert found, f"no section {title!r}"
    return found[1]


def rows(text: str) -> dict[str, str]:
    """First cell, without its backticks -> whole row, for table rows whose first cell is one code span."""
    return {cell: row for row, cell in re.findall(r"^(\| `([^`]+)` \|.*)$", text, flags=re.MULTILINE)}


# Help pages


def items(text: str) -> dict[str, str]:
    """First code span -> whole item, for list items that begin with one. (A table is too wide for ComfyUI's panel.)"""
    return {name: item for item, name in re.findall(r"^(\* `([^`]+)`.*)$", text, flags=re.MULTILINE)}


def test_every_node_has_a_help_page_and_every_page_a_node():
    assert sorted(path.stem for path in HELP.glob("*.md")) == sorted(schemas()) == sorted(NODE_IDS)


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_help_page_names_every_input_and_output(node_id: str):
    page, schema = read(HELP / f"{node_id}.md"), schemas()[node_id]
    assert page.startswith(f"# {schema.display_name}\n")
    assert list(items(section(page, "Inputs"))) == [given.id for given in schema.inputs]
    assert list(items(section(page, "Outputs"))) == [output.display_name for output in schema.outputs]
    assert section(page, "Typical use").strip() and quotes(section(page, "Messages"))


@pytest.mark.parametrize("node_id", NODE_IDS)
def test_help_page_gives_ranges_and_options(node_id: str):
    inputs = section(read(HELP / f"{node_id}.md"), "Inputs")
    for given in schemas()[node_id].inputs:
        item = items(inputs)[given.id]
        if isinstance(given, io.Float.Input):
            assert f"{given.min:g} to {given.max:g}; default {given.default:g}" in item
        if isinstance(given, io.Combo.Input):
            assert not [option for option in given.options if option not in inputs], given.id
        if isinstance(given, io.Boolean.Input):
            assert "off, on" in item and given.default is False


def test_help_pages_have_a_picture_and_no_links_into_the_repository():
    """ComfyUI shows them without the rest of the checkout."""
    for path in HELP.glob("*.md"):
        assert re.findall(r"\]\((?!https?://|#)(.*?)\)", read(path)) == [f"{path.stem}.jpg"]
        with Image.open(path.with_suffix(".jpg")) as picture:
            assert picture.format == "JPEG"
        assert path.with_suffix(".jpg").stat().st_size <= 40_000
    assert sorted(path.stem for path in HELP.glob("*.jpg")) == sorted(NODE_IDS)


@pytest.mark.server
def test_the_server_serves_the_help_pages_where_the_frontend_looks(server: LocalServer):
    session = requests.Session()
    session.trust_env = False
    for node_id in NODE_IDS:
        # The frontend's rule: custom_nodes.<folder>[@version] -> /extensions/<folder>/docs/<node id>.md
        kind, folder = server.client.object_info(node_id)["python_module"].split(".")
        assert kind == "custom_nodes"
        answer = session.get(f"{server.address}/extensions/{folder.split('@')[0]}/docs/{node_id}.md", timeout=10)
        assert answer.status_code == 200
        assert "text/html" not in answer.headers.get("content-type", "")
        assert answer.content.decode("utf-8") == read(HELP / f"{node_id}.md")


# Links, paths, commands


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", read(path), flags=re.MULTILINE)}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path):
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if link.startswith(("http://", "https://")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def without_fences(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_paths_of_this_repository_exist(page: Path):
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name not in NO_ROOMS}
    spans = re.findall(r"`([^`\s]+)`", without_fences(read(page)))
    paths = [span for span in spans if "/" in span and span.split("/")[0] in rooms and not set(span) & set("<>…{}")]
    assert not [path for path in paths if not (ROOT / path).exists()]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_exist_and_can_be_run(page: Path):
    commands = set(re.findall(r"(?<![\w/])scripts/[a-z]+\b(?![./\w])", read(page)))
    assert not [command for command in commands if not os.access(ROOT / command, os.X_OK)]
    if page == README:
        assert {"scripts/demo", "scripts/test"} <= commands


def test_versions_are_those_of_the_code():
    environment, readme = read(ROOT / "scripts" / "environment.sh"), read(README)
    (version,) = re.findall(r"^COMFYUI_VERSION=(\S+)$", environment, flags=re.MULTILINE)
    assert f"ComfyUI {version}" in readme
    (mediapipe,) = set(re.findall(r"mediapipe==[\d.]+", read(ROOT / "pyproject.toml")))
    assert set(re.findall(r"mediapipe==[\d.]+", readme)) == {mediapipe}


# What README and AGENTS.md list


def test_readme_lists_every_node():
    listed = rows(read(README).partition("### Nodes")[2].partition("###")[0])
    assert list(listed) and sorted(listed) == sorted(NODE_IDS)
    assert all(f"web/docs/{node_id}.md" in row for node_id, row in listed.items())


def test_readme_lists_every_workflow():
    listed = rows(read(README).partition("### Bundled workflows")[2].partition("\n## ")[0])
    assert set(listed) == {path.stem for path in (ROOT / "workflows").rglob("*.json")}


def tree() -> dict[str, list[str]]:
    """Room -> the files that AGENTS.md lists in it."""
    block = re.search(r"^## Rooms\n\n```\n(.*?)^```", read(AGENTS), flags=re.MULTILINE | re.DOTALL)
    assert block
    found: dict[str, list[str]] = {}
    room = ""
    for line in block[1].splitlines():
        names, _, what = line.strip().partition("  ")
        assert what.strip(), f"{names} is not explained"
        if line.startswith(" "):
            found[room] += names.split(", ")
        else:
            room = names
            found[room] = []
    return found


def test_agents_lists_every_room():
    folders = {path.parent for path in ROOT.glob("[a-z]*/*") if path.parent.name not in NO_ROOMS}
    rooms = {f"{folder.name}/" for folder in folders if not folder.name.endswith(".egg-info")}
    listed = {room.split("/")[0] + "/" for room in tree() if room.endswith("/")}
    assert listed == rooms


@pytest.mark.parametrize("room", ROOMS_WITH_FILES)
def test_agents_lists_every_file(room: str):
    optional = {"__init__.py"}
    files = {f"{path.name}/" if path.is_dir() else path.name for path in (ROOT / room).iterdir()} - {"__pycache__/"}
    assert set(tree()[f"{room}/"]) - optional == files - optional


def test_performance_page_names_every_measurement():
    module = ast.parse(read(ROOT / "bench" / "__main__.py"))
    (measurements,) = [
        ast.literal_eval(node.value)
        for node in module.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MEASUREMENTS"
    ]
    page = read(ROOT / "docs" / "performance.md")
    assert not [name for name in measurements if name not in page]


# Messages: "…" stands for what is filled in


def template(node: ast.AST) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return None


def templates(node: ast.AST) -> Iterator[str]:
    """Every string of the source, f-strings as wholes."""
    text = template(node)
    if text is not None:
        yield " ".join(text.split())
        return
    for child in ast.iter_child_nodes(node):
        yield from templates(child)


@cache
def python_sources() -> dict[str, ast.Module]:
    files = [ROOT / "__init__.py", ROOT / "__main__.py"]
    files += [file for room in ROOMS_WITH_FILES for file in sorted((ROOT / room).glob("*.py"))]
    return {name_of(file): ast.parse(read(file)) for file in files}


def raised_messages() -> Iterator[tuple[str, str]]:
    """(file:line, message) for every message that Python code raises."""
    for file, module in python_sources().items():
        for node in ast.walk(module):
            if isinstance(node, ast.Raise) and node.exc is not None:
                # What follows the first string is added to it.
                message = next((text for text in templates(node.exc) if " " in text), None)
                if message is not None:
                    yield f"{file}:{node.lineno}", message


def shell_messages() -> Iterator[tuple[str, str]]:
    """(file, message) for the first line of every failure of the commands."""
    for file in ("environment.sh", "test"):
        text = re.sub(r"\$\{[^}]*\}|\$\((?:[^()]|\([^()]*\))*\)|\$\w+", "…", read(ROOT / "scripts" / file))
        for message in re.findall(r'bolid_fail "([^"]*)"', text):
            if message != "…":
                yield f"scripts/{file}", message


def quotes(page: str) -> list[str]:
    return re.findall(r"^> (.+)$", page, flags=re.MULTILINE)


@cache
def quotable() -> list[str]:
    strings = [text for module in python_sources().values() for text in templates(module)]
    return strings + [message for _, message in shell_messages()]


@pytest.mark.parametrize("page", [TROUBLESHOOTING, *sorted(HELP.glob("*.md"))], ids=name_of)
def test_quoted_messages_occur_in_the_source(page: Path):
    found = quotes(read(page))
    assert found
    assert not [quote for quote in found if not any(quote in text for text in quotable())]


def test_every_message_is_explained():
    explained = quotes(read(TROUBLESHOOTING))
    messages = [*raised_messages(), *shell_messages()]
    assert len(messages) > 140
    # A quote may end early, but not so early that it fits another message.
    missing = [
        (where, message)
        for where, message in messages
        if not any(quote in message and len(quote) >= min(len(message), 25) for quote in explained)
    ]
    assert not missing


# Translations


def test_locales_are_languages_of_the_frontend():
    assets = Path(str(comfyui_frontend_package.__path__[0]), "static", "assets")
    known = {
        language
        for file in assets.glob("i18n-*.js")
        for language in re.findall(r'"\./([\w-]+)/nodeDefs\.json"', file.read_text(encoding="utf-8"))
    }
    assert "en" in known
    assert LOCALES and set(LOCALES) <= known


def strings(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for entry in value.values():
            yield from strings(entry)
    else:
        assert isinstance(value, str)
        yield value


@pytest.mark.parametrize("language", LOCALES)
def test_locale_translates_every_node_and_nothing_else(language: str):
    translated = json.loads(read(ROOT / "locales" / language / "nodeDefs.json"))
    assert list(translated) == NODE_IDS
    for node_id, schema in schemas().items():
        node = translated[node_id]
        assert set(node) == {"display_name", "description", "inputs", "outputs"}
        assert "BoLID" in node["display_name"]
        assert list(node["inputs"]) == [given.id for given in schema.inputs]
        assert list(node["outputs"]) == [str(number) for number in range(len(schema.outputs))]
        slots = [
            *zip(schema.inputs, node["inputs"].values(), strict=True),
            *zip(schema.outputs, node["outputs"].values(), strict=True),
        ]
        for original, given in slots:
            assert set(given) == ({"name", "tooltip"} if original.tooltip else {"name"}), (node_id, original.id)
    categories = {schema.category for schema in schemas().values()}
    assert set(json.loads(read(ROOT / "locales" / language / "main.json"))["nodeCategories"]) == categories


@pytest.mark.parametrize("language", LOCALES)
def test_locale_has_plain_sentences(language: str):
    """Braces, @ and | have a meaning in the frontend's messages."""
    for file in ("nodeDefs.json", "main.json"):
        for text in strings(json.loads(read(ROOT / "locales" / language / file))):
            assert text.strip() == text != ""
            assert not set(text) & set("{}@|"), text


@pytest.mark.server
def test_the_server_hands_out_the_translations(server: LocalServer):
    session = requests.Session()
    session.trust_env = False
    answer = session.get(f"{server.address}/i18n", timeout=10).json()
    for language in LOCALES:
        folder = ROOT / "locales" / language
        for node_id, texts in json.loads(read(folder / "nodeDefs.json")).items():
            assert answer[language]["nodeDefs"][node_id] == texts
        assert (
            answer[language]["nodeCategories"].items()
            >= json.loads(read(folder / "main.json"))["nodeCategories"].items()
        )


# The README's program


@pytest.mark.server
def test_the_http_example_of_the_readme_runs(server: LocalServer, photographs: dict[str, Image.Image], tmp_path: Path):
    (program,) = re.findall(r"^```python\n(.*?)^```", read(README), flags=re.MULTILINE | re.DOTALL)
    assert program.count("http://127.0.0.1:8188") == 1
    (tmp_path / "workflows").symlink_to(ROOT / "workflows")
    (tmp_path / "photos").mkdir()
    for number in range(3):
        photographs[f"carphone_{number}"].save(tmp_path / "photos" / f"{number}.jpg")
    answer = subprocess.run(
        [sys.executable, "-c", program.replace("http://127.0.0.1:8188", server.address)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "clients")},
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    (picture,) = tmp_path.glob("*.png")
    with Image.open(picture) as image:
        image.load()
        assert image.size == (128, 128)
    uploaded = server.base_directory / "input" / "anna"
    assert sorted(path.name for path in uploaded.iterdir()) == ["0.jpg", "1.jpg", "2.jpg"]
