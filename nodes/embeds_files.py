"""Keeping encoded photos in files."""

from __future__ import annotations

import os
import re
from pathlib import Path, PureWindowsPath

import folder_paths
from comfy_api.v0_0_2 import io, ui

from ..models.embeds_file import SUFFIX, read_embeds, write_embeds
from ..models.references import Embeds, References
from .reports import report_json
from .types import CATEGORY, EmbedsType, ReferencesType

DEFAULT_PREFIX = "embeds/BoLID"


class BoLIDSaveEmbeds(io.ComfyNode):
    """Embeds or references → a file of the output folder."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BoLIDSaveEmbeds",
            display_name="Save Embeds (BoLID)",
            category=CATEGORY,
            description="Writes encoded photos into a file of ComfyUI's output folder. BoLIDLoadEmbeds reads it where "
            "neither the photos nor the image encoder are.",
            search_aliases=["ipadapter save embeds", "save references", "save face", "export identity", "ipadpt"],
            is_output_node=True,
            inputs=[
                io.MultiType.Input(
                    "embeds",
                    [EmbedsType, ReferencesType],
                    tooltip="Embeds of an aggregator, ready to be applied; or references of MultiRefImageEncoder, "
                    "which keep every photo apart and can be aggregated in any way later.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default=DEFAULT_PREFIX,
                    tooltip="Folder and beginning of the file's name in ComfyUI's output folder, e.g. embeds/anna; a "
                    "number is added, and no file is overwritten. %year%, %month%, %day%, %hour%, %minute% and "
                    "%second% are filled in.",
                ),
                io.String.Input(
                    "person",
                    default="",
                    optional=True,
                    tooltip="Whose photos they are: kept in the file for people to read, and nothing else.",
                ),
            ],
            outputs=[
                io.String.Output("file", tooltip="The file that was written, as BoLIDLoadEmbeds names it."),
            ],
        )

    @classmethod
    def execute(cls, embeds: Embeds | References, filename_prefix: str, person: str = "") -> io.NodeOutput:
        folder, name, subfolder = _place(filename_prefix)
        try:
            write_embeds(folder / name, embeds, person=person.strip())
        except OSError as error:  # no room, no permission, a name that is too long for the disk
            raise _unusable(filename_prefix, error) from error
        # `ui` goes into the history, where programs look for files.
        return io.NodeOutput(
            f"{(Path(subfolder) / name).as_posix()} [output]",
            ui={"embeds": [ui.SavedResult(name, subfolder, io.FolderType.output)]},
        )


class BoLIDLoadEmbeds(io.ComfyNode):
    """A file of BoLIDSaveEmbeds → what it holds."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="BoLIDLoadEmbeds",
            display_name="Load Embeds (BoLID)",
            category=CATEGORY,
            description="Reads a file that BoLIDSaveEmbeds wrote, from ComfyUI's output or input folder. Neither the "
            "photos nor the image encoder are needed then.",
            search_aliases=["ipadapter load embeds", "load references", "load face", "import identity", "ipadpt"],
            inputs=[
                io.Combo.Input(
                    "file",
                    options=embeds_files(),
                    tooltip="A .safetensors file in ComfyUI's input folder or, marked [output], in its output folder. "
                    "If the list is empty, save one with BoLIDSaveEmbeds or put one there, and press R.",
                ),
            ],
            outputs=[
                EmbedsType.Output(
                    "embeds", tooltip="For BoLIDAdapterApply: the saved embeds, or the average of saved references."
                ),
                ReferencesType.Output(
                    "references",
                    tooltip="For an aggregator or BoLIDRankImages: the saved references. Saved embeds count as one "
                    "photo, or as many as they keep side by side.",
                ),
                io.String.Output("report", tooltip="JSON: what the file holds, of whom, and of which photos."),
            ],
        )

    @classmethod
    def validate_inputs(cls, file: str | None) -> bool | str:
        if file is None:  # linked: known only when the graph runs
            return True
        try:
            embeds_path(file)
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, file: str | None) -> str:
        if file is None:
            return ""
        status = embeds_path(file).stat()
        return f"{status.st_mtime_ns} {status.st_size}"

    @classmethod
    def execute(cls, file: str) -> io.NodeOutput:
        found = read_embeds(embeds_path(file))
        config = found.config
        report = report_json(
            config.photos,
            kind=config.kind,
            person=config.person,
            rows=config.rows,
            image_embed_dim=config.image_embed_dim,
            hidden_states=config.hidden_states,
            face_embed_dim=config.face_embed_dim,
        )
        return io.NodeOutput(found.embeds, found.references, report)


def _place(filename_prefix: str) -> tuple[Path, str, str]:
    """Folder, name and subfolder of the next file, numbered as ComfyUI's own savers do it.

    Raises:
        ValueError: no name, one outside the output folder, or one that cannot be used.
    """
    if not re.search(r"[^\s./\\]", filename_prefix):
        raise ValueError(f"filename_prefix is {filename_prefix!r}; expected a name such as 'embeds/anna'.")
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            filename_prefix.strip(), folder_paths.get_output_directory()
        )
    except Exception as error:  # ComfyUI raises Exception itself for a folder outside
        raise _unusable(filename_prefix, error) from error
    return Path(folder), f"{name}_{counter:05}_{SUFFIX}", subfolder


def _unusable(filename_prefix: str, error: Exception) -> ValueError:
    return ValueError(
        f"Nothing can be saved under filename_prefix {filename_prefix[:200]!r} ({str(error)[:200].splitlines()[0]}). "
        "Give a name inside ComfyUI's output folder, such as 'embeds/anna', and see that there is room."
    )


def _folders() -> dict[str, Path]:
    """What a file name may end with in brackets, and the folder in which the file lies then."""
    return {
        "input": Path(folder_paths.get_input_directory()),
        "output": Path(folder_paths.get_output_directory()),
    }


def embeds_files() -> list[str]:
    """Safetensors files in the input folder, then those in the output folder, marked as ComfyUI marks them."""
    found = []
    for kind, root in _folders().items():
        mark = "" if kind == "input" else f" [{kind}]"
        names = [
            Path(folder, name).relative_to(root).as_posix()
            for folder, _, names in os.walk(root)
            for name in names
            if name.lower().endswith(SUFFIX) and not name.startswith(".")
        ]
        found += [name + mark for name in sorted(names)]
    return found


def embeds_path(file: str) -> Path:
    """Path of a file such as "anna.safetensors" (of the input folder) or "embeds/anna_00001_.safetensors [output]".

    Raises:
        ValueError: no name, one that leads out of the folder, or no such file.
    """
    name, mark = file.strip(), "input"
    if match := re.fullmatch(r"(.*?)\s*\[(input|output)\]", name, flags=re.DOTALL):
        name, mark = match[1], match[2]
    root = _folders()[mark].resolve()
    if not name:
        raise ValueError("No embeds file is chosen. Save one with BoLIDSaveEmbeds, press R and choose it as 'file'.")
    outside = (
        f"{file[:200]!r} leads out of ComfyUI's {mark} folder. Only embeds inside the input and output folders can be "
        "loaded; copy the file there, and name it as in 'embeds/anna_00001_.safetensors [output]'."
    )
    # Both kinds of paths on every system: a graph may come from another one.
    if PureWindowsPath(name).drive or name[0] in "/\\" or ".." in re.split(r"[\\/]", name):
        raise ValueError(outside)
    try:
        path = Path(root, name).resolve()
        is_there = path.is_file()
    except (OSError, RuntimeError, ValueError) as error:  # too long, links in a circle, a zero byte
        raise ValueError(f"{file[:200]!r} is no usable file name ({error}).") from error
    if not path.is_relative_to(root):  # a link
        raise ValueError(outside)
    if not is_there:
        raise ValueError(
            f"The embeds file {name!r} is not in ComfyUI's {mark} folder {root}. Press R to see the files that are "
            "there; those of the output folder are marked [output]."
        )
    return path
