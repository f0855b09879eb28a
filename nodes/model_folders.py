"""Where the pack's model files live in ComfyUI's models folder."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ..catalogue.folders import download_command
from ..catalogue.public_files import Kind, probable, readable_size
from ..catalogue.recognise import adapter_facts
from ..hosts.comfyui import LoadedAdapter
from ..models.checkpoint import read_metadata

ADAPTER_FOLDERS = ("bolid", "ipadapter")
POSE_MODEL_FOLDER, POSE_MODEL_EXTENSION = "mediapipe", ".task"
AESTHETIC_FOLDER = "aesthetic"
"""The one that other scoring packs read."""


def register_model_folders() -> None:
    """Make the folders of models/ that the pack reads known to ComfyUI; folders of other packs are kept."""
    for name in (*ADAPTER_FOLDERS, AESTHETIC_FOLDER):
        _register(name, folder_paths.supported_pt_extensions)
    _register(POSE_MODEL_FOLDER, {POSE_MODEL_EXTENSION})


def _register(name: str, extensions: set[str]) -> None:
    folder_paths.add_model_folder_path(name, os.path.join(folder_paths.models_dir, name))
    # A newly registered folder accepts every file until it is told its extensions.
    folders, known = folder_paths.folder_names_and_paths[name]
    folder_paths.folder_names_and_paths[name] = (folders, {*known, *extensions})


def pose_model_names() -> list[str]:
    """mediapipe's pose models in models/mediapipe, for versions of mediapipe that carry none."""
    return [name for name in folder_paths.get_filename_list(POSE_MODEL_FOLDER) if name.endswith(POSE_MODEL_EXTENSION)]


def pose_model_path(name: str) -> str:
    """Full path of a pose model.

    Raises:
        FileNotFoundError: no such file.
    """
    path = folder_paths.get_full_path(POSE_MODEL_FOLDER, name)
    if path is None:
        raise FileNotFoundError(
            f"The pose model {name!r} was not found. Put a pose_landmarker .task file into "
            f"{os.path.join(folder_paths.models_dir, POSE_MODEL_FOLDER)}, or set pose_model to 'bundled'."
            + how_to_get(name, "pose model")
        )
    return path


def adapter_names() -> list[str]:
    """File names in the adapter folders, each once."""
    names = [name for folder in ADAPTER_FOLDERS for name in folder_paths.get_filename_list(folder)]
    return list(dict.fromkeys(names))


def adapter_path(name: str) -> str:
    """Full path of an adapter file.

    Raises:
        FileNotFoundError: no such file in the adapter folders.
    """
    for folder in ADAPTER_FOLDERS:
        path = folder_paths.get_full_path(folder, name)
        if path is not None:
            return path
    raise FileNotFoundError(missing_adapter_message(name))


def missing_adapter_message(name: str | None) -> str:
    """What to tell a user whose adapter is not there."""
    folders = " or ".join(os.path.join(folder_paths.models_dir, folder) for folder in ADAPTER_FOLDERS)
    available = adapter_names()
    listed = f"Available are: {', '.join(available)}." if available else "These folders hold no adapter yet."
    return f"Adapter {name!r} was not found. Put IP-Adapter or BoLID files into {folders}. {listed}" + how_to_get(
        name or "", "adapter"
    )


def adapter_text(path: str, adapter: LoadedAdapter) -> str:
    """What a loaded adapter is and needs, for the node that loaded it."""
    facts = adapter_facts(
        adapter.adapter.layout,
        has_lora=bool(adapter.lora),
        written_by_bolid="bolid.format" in read_metadata(path),
        is_version_known=True,  # the node has a choice for it
    )
    return facts.what + (f"\nneeds {', '.join(facts.needs)}" if facts.needs else "")


def how_to_get(name: str, kind: Kind) -> str:
    """Which public file a name probably means, and how to get it; empty where there is none."""
    file = probable(name, kind)
    if file is None:
        return ""
    models = Path(folder_paths.models_dir)
    needs = f" It needs {' and '.join(file.needs)} beside it." if file.needs else ""
    return (
        f" It is probably the public file {file.file} ({readable_size(file.size)}), which belongs into "
        f"{file.target(models).parent}.{needs} To download it: {download_command(file.name, models=models)}"
    )


def aesthetic_models() -> list[str]:
    """File names in models/aesthetic."""
    return folder_paths.get_filename_list(AESTHETIC_FOLDER)


def aesthetic_model_path(name: str | None) -> str:
    """Full path of an aesthetic model.

    Raises:
        FileNotFoundError: no name, or no such file.
    """
    available = aesthetic_models()
    path = folder_paths.get_full_path(AESTHETIC_FOLDER, name) if name in available else None
    if path is None:
        missing = f"The aesthetic model {name!r} was not found." if name else "No aesthetic model is chosen."
        folder = os.path.join(folder_paths.models_dir, AESTHETIC_FOLDER)
        listed = f"Available are: {', '.join(available)}." if available else "The folder holds none yet."
        raise FileNotFoundError(
            f"{missing} Put a file such as LAION's sac+logos+ava1-l14-linearMSE into {folder}, press R and choose it "
            f"as aesthetic_model. {listed}" + how_to_get(name or "", "aesthetic model")
        )
    return path


def insightface_root() -> str:
    """Folder in which insightface looks for models/<pack>; the one that other face packs use."""
    return os.path.join(folder_paths.models_dir, "insightface")


def insightface_packs() -> list[str]:
    """Model packs that are there, or could be: the public ones come first."""
    models = Path(insightface_root(), "models")
    there = models.iterdir() if models.is_dir() else ()
    found = sorted(path.name for path in there if path.is_dir() and not path.name.startswith("."))
    return list(dict.fromkeys(["buffalo_l", "antelopev2", *found]))
