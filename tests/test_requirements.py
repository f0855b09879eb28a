"""requirements.txt is installed into users' ComfyUI: it may change neither their numpy nor their torch.

Shown on environments that hold exactly what ComfyUI's own requirements bring along. They are made of links to the files
that are installed here, one link per file, so that an installer may replace or remove any of them.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "requirements.txt"
HELD = ("numpy", "torch", "torchvision", "torchaudio")
NUMPY_2 = "2.2.6"


def read_requirements(path: Path) -> list[Requirement]:
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [Requirement(line) for line in lines if line]


def closure(requirements: list[Requirement]) -> dict[str, importlib.metadata.Distribution]:
    """Canonical name -> installed distribution, for all that the requirements bring along on this machine."""
    found: dict[str, importlib.metadata.Distribution] = {}
    open_names = [(requirement.name, frozenset(requirement.extras)) for requirement in requirements]
    seen = set()
    while open_names:
        name, extras = open_names.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        distribution = importlib.metadata.distribution(name)
        found[canonicalize_name(name)] = distribution
        for line in distribution.requires or ():
            required = Requirement(line)
            if required.marker is None or any(required.marker.evaluate({"extra": extra}) for extra in extras | {""}):
                open_names.append((required.name, frozenset(required.extras)))
    return found


class Environment:
    """A virtual environment whose distributions are links to installed ones, or bare metadata."""

    def __init__(self, folder: Path):
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.python = folder / "bin" / "python"
        self.site_packages = Path(sysconfig.get_path("purelib", "venv", vars={"base": str(folder)}))

    def link(self, distribution: importlib.metadata.Distribution) -> None:
        """Make the files of an installed distribution available here (commands in bin/ left out)."""
        for file in distribution.files or ():
            if ".." in file.parts or file.suffix == ".pyc":
                continue
            target = self.site_packages / file
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists():
                target.symlink_to(Path(str(distribution.locate_file(file))))

    def add_metadata(self, name: str, version: str) -> None:
        """What an installer sees of a distribution of another version."""
        folder = self.site_packages / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (folder / "INSTALLER").write_text("pip\n")
        (folder / "RECORD").write_text(f"{folder.name}/METADATA,,\n{folder.name}/INSTALLER,,\n{folder.name}/RECORD,,\n")

    def fingerprint(self) -> dict[str, str]:
        """Each file of the held packages -> where its link points, or its own hash once it is no link any more."""
        prints = {}
        for name in HELD:
            for path in (*self.site_packages.glob(f"{name}/**/*"), *self.site_packages.glob(f"{name}-*/*")):
                if path.is_symlink():
                    prints[str(path)] = str(path.readlink())
                elif path.is_file() and path.suffix != ".pyc":
                    prints[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
        return prints

    def changes(self, requirements: Path, *arguments: str) -> dict[str, str]:
        """Held package -> what installing the requirements would do to it, e.g. {"numpy": "- numpy==2.2.6 + ..."}."""
        command = [sys.executable, "-m", "uv", "pip", "install", "--dry-run", "--color", "never"]
        command += ["--python", str(self.python), "--requirement", str(requirements), *arguments]
        answer = subprocess.run(command, capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        changes: dict[str, str] = {}
        for sign, name, version in re.findall(r"^ ([-+~]) (\S+?)==(\S+)", answer.stderr, flags=re.MULTILINE):
            if canonicalize_name(name) in HELD:
                changes[name] = f"{changes.get(name, '')} {sign} {name}=={version}".strip()
        return changes


@pytest.fixture(scope="module")
def comfyui_distributions(comfyui_dir: Path) -> dict[str, importlib.metadata.Distribution]:
    return closure(read_requirements(comfyui_dir / "requirements.txt"))


@pytest.fixture(scope="module")
def environment(comfyui_distributions, tmp_path_factory) -> Environment:
    """As ComfyUI's requirements leave it, with the versions that are installed here."""
    environment = Environment(tmp_path_factory.mktemp("comfyui-environment") / "venv")
    for distribution in comfyui_distributions.values():
        environment.link(distribution)
    return environment


@pytest.fixture(scope="module")
def numpy_2_environment(comfyui_distributions, tmp_path_factory) -> Environment:
    """The same as an installer sees it, but with numpy 2; nothing in it runs."""
    environment = Environment(tmp_path_factory.mktemp("numpy-2-environment") / "venv")
    for name, distribution in comfyui_distributions.items():
        environment.add_metadata(name, NUMPY_2 if name == "numpy" else distribution.version)
    return environment


@pytest.fixture(scope="module")
def wheelhouse(tmp_path_factory) -> Path:
    """Wheels of nothing but the real metadata of what is installed here: an index for the resolver, no network."""
    folder = tmp_path_factory.mktemp("wheelhouse")
    for distribution in importlib.metadata.distributions():
        name = canonicalize_name(distribution.metadata["Name"]).replace("-", "_")
        info = f"{name}-{distribution.version}.dist-info"
        with zipfile.ZipFile(folder / f"{name}-{distribution.version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{info}/METADATA", distribution.read_text("METADATA") or "")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
    return folder


def test_installing_changes_neither_numpy_nor_torch(environment: Environment):
    look = (
        "import json, numpy, torch; assert torch.from_numpy(numpy.ones(3)).sum() == 3;"
        "print(json.dumps({m.__name__: [m.__version__, m.__file__] for m in (numpy, torch)}))"
    )

    def imported() -> dict[str, list[str]]:
        answer = subprocess.run([environment.python, "-c", look], capture_output=True, text=True)
        assert answer.returncode == 0, answer.stderr
        return json.loads(answer.stdout)

    versions, files = imported(), environment.fingerprint()
    assert all(str(environment.site_packages) in file for _, file in versions.values())
    assert len(files) > 1000

    # As ComfyUI-Manager does it: the environment's pip, no constraint.
    pip = [sys.executable, "-m", "pip", "--python", environment.python]
    subprocess.run([*pip, "install", "--quiet", "--requirement", REQUIREMENTS], check=True)

    assert imported() == versions
    assert environment.fingerprint() == files


def test_installing_over_numpy_2_changes_neither_numpy_nor_torch(numpy_2_environment: Environment):
    assert numpy_2_environment.changes(REQUIREMENTS) == {}


@pytest.mark.parametrize("line", ["mediapipe==0.10.21", "numpy<2"])
def test_a_requirement_that_takes_numpy_2_away_is_found(
    line: str, numpy_2_environment: Environment, wheelhouse: Path, tmp_path: Path
):
    poisoned = tmp_path / "requirements.txt"
    poisoned.write_text(REQUIREMENTS.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    changes = numpy_2_environment.changes(poisoned, "--no-index", "--find-links", str(wheelhouse))
    installed = importlib.metadata.version("numpy")
    assert changes == {"numpy": f"- numpy=={NUMPY_2} + numpy=={installed}"}


def test_a_replaced_file_is_found(environment: Environment):
    before = environment.fingerprint()
    link = environment.site_packages / "numpy" / "version.py"
    original = link.readlink()
    link.unlink()
    link.write_text("version = '0'\n")
    try:
        assert environment.fingerprint() != before
    finally:
        link.unlink()
        link.symlink_to(original)


def test_no_requirement_repeats_one_of_comfyui(comfyui_distributions):
    ours = {canonicalize_name(requirement.name) for requirement in read_requirements(REQUIREMENTS)}
    assert not ours & set(comfyui_distributions)
