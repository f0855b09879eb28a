"""Whether public files are there and whole, and whether a workflow finds what it names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .checksums import Progress, sha256_of, silent
from .folders import PACKS, PLACES, ModelFolders
from .public_files import PUBLIC_FILES, Kind, PublicFile, named, probable
from .workflows import Wanted

Status = Literal["there", "missing", "damaged"]


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What became of one file.

    Attributes:
        name: as it was asked for.
        status: "damaged" is also said of another file under that name.
        path: where it is, or where it belongs.
        file: the public file that it is, or probably should be; None if there is none.
        size: of the file that is there, else of the one to be downloaded; None if not known.
        note: what else there is to say.
    """

    name: str
    status: Status
    path: Path
    file: PublicFile | None = None
    size: int | None = None
    note: str = ""

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "name": self.name,
            "status": self.status,
            "path": str(self.path),
            "public_file": self.file.name if self.file else None,
            "size": self.size,
            "source": self.file.source if self.file else None,
            "needs": list(self.file.needs) if self.file else [],
            "licence": self.file.licence or None if self.file else None,
            "note": self.note or None,
        }


def public_files(names: list[str]) -> list[PublicFile]:
    """The public files of these names, each once.

    Raises:
        ValueError: a name that is none.
    """
    found = []
    for name in names:
        file = named(name)
        if file is None:
            known = ", ".join(file.name for file in PUBLIC_FILES)
            raise ValueError(f"{name} is no public file that BoLID knows. Give one or more of: {known}.")
        found.append(file)
    return list(dict.fromkeys(found))


def check_public_file(file: PublicFile, folders: ModelFolders, progress: Progress = silent) -> Checked:
    """Look for a public file by its name, then by its content under other names, and compare the checksum."""
    target = file.target(folders.models)
    if file.members:
        return _check_pack(file, target, progress)
    path = folders.find(file.folder, file.file)
    if path is not None:
        problem = difference(file, path, progress)
        status: Status = "damaged" if problem else "there"
        note = problem or ("" if file.sha256 else "its checksum is not known")
        return Checked(name=file.name, status=status, path=path, file=file, size=path.stat().st_size, note=note)
    for known_as, path in folders.files(file.folder, PLACES[file.folder][1]) if file.size and file.sha256 else ():
        if path.stat().st_size == file.size and sha256_of(path, progress) == file.sha256:
            return Checked(
                name=file.name, status="there", path=path, file=file, size=file.size, note=f"under the name {known_as}"
            )
    return Checked(name=file.name, status="missing", path=target, file=file, size=file.size)


def difference(file: PublicFile, path: Path, progress: Progress = silent) -> str:
    """Why a file cannot be this public file; empty if it is, as far as can be known."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"it has {size:,} bytes, the public file {file.size:,}: an incomplete download, or another file"
    if file.sha256 is not None and sha256_of(path, progress) != file.sha256:
        return "its checksum is not that of the public file: a damaged download, or another file"
    return ""


def _check_pack(file: PublicFile, folder: Path, progress: Progress) -> Checked:
    paths = {member: folder / member.file for member in file.members}
    there = {member: path for member, path in paths.items() if path.is_file()}
    if not there and not any(folder.glob("*/*.onnx")):
        return Checked(name=file.name, status="missing", path=folder, file=file, size=file.size)
    problems = [f"{member.file} is missing" for member in file.members if member not in there and member.is_needed]
    if not there:
        problems = ["its files lie one level too deep: move them up"]
    for member, path in there.items():
        size = path.stat().st_size
        if size != member.size:
            problems.append(f"{member.file} has {size:,} bytes, not {member.size:,}")
        elif sha256_of(path, progress) != member.sha256:
            problems.append(f"{member.file} has another checksum")
    unneeded = [member.file for member in file.members if member not in there and not member.is_needed]
    return Checked(
        name=file.name,
        status="damaged" if problems else "there",
        path=folder,
        file=file,
        size=sum(path.stat().st_size for path in there.values()),
        note="; ".join(problems) or (f"without {', '.join(unneeded)}, which BoLID does not need" if unneeded else ""),
    )


def check_wanted(wanted: Wanted, folders: ModelFolders, progress: Progress = silent) -> Checked:
    """Look for a file that a workflow names, under that name: nothing else will do."""
    if wanted.folder == PACKS:
        return _check_wanted_pack(wanted, folders, progress)
    path = next(filter(None, (folders.find(folder, wanted.name) for folder in wanted.folders)), None)
    kind = PLACES[wanted.folder][0] if wanted.folder in PLACES else None
    if path is None:
        return _missing(wanted, probable(wanted.name, kind) if kind else None, folders)
    exact = named(wanted.name)
    exact = exact if exact is not None and exact.kind == kind else None
    problem = (difference(exact, path, progress) if exact else "") or _unreadable(path, kind)
    return Checked(
        name=wanted.name,
        status="damaged" if problem else "there",
        path=path,
        file=exact,
        size=path.stat().st_size,
        note=problem,
    )


def _missing(wanted: Wanted, public: PublicFile | None, folders: ModelFolders) -> Checked:
    note = f"the workflow names {wanted.url}" if wanted.url and public is None else ""
    if public is not None and public.file != wanted.name:
        note = f"probably {public.file}: rename it, or choose it in the workflow"
    return Checked(
        name=wanted.name,
        status="missing",
        path=public.target(folders.models) if public else folders.models / wanted.folder / wanted.name,
        file=public,
        size=public.size if public else None,
        note=note,
    )


def _check_wanted_pack(wanted: Wanted, folders: ModelFolders, progress: Progress) -> Checked:
    public = named(wanted.name)
    if public is not None and public.kind == "insightface pack":
        return _check_pack(public, public.target(folders.models), progress)
    folder = folders.models / PACKS / wanted.name
    if not folder.is_dir():
        return _missing(wanted, None, folders)
    problem = _unreadable(folder, "insightface pack")
    return Checked(name=wanted.name, status="damaged" if problem else "there", path=folder, note=problem)


def _unreadable(path: Path, kind: Kind | None) -> str:
    """Why a file is nothing of that kind; empty if it is, or if nobody here can say."""
    if kind is None:
        return ""
    from .recognise import recognise  # needs torch, which downloading does without

    try:
        recognise(path, kind)
    except (ValueError, OSError) as error:
        return str(error)
    return ""
