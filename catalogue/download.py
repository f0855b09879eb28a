"""Downloading public files: through huggingface_hub, resumed where it was cut, checked, and moved into place whole."""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .check import check_public_file, public_files
from .checksums import CHUNK, Progress, sha256_of, silent
from .folders import ModelFolders
from .public_files import RESEARCH_ONLY, PublicFile, readable_size

logger = logging.getLogger(__name__)

PARTIAL = ".partial"
SPARE = 64 * 2**20
"""Bytes of the disk that are left alone."""


class DownloadError(RuntimeError):
    """A file could not be had; the message says why and what to do."""


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Where a file comes from, and what it has to be."""

    url: str
    headers: dict[str, str]
    size: int | None
    sha256: str | None


class Outcome(NamedTuple):
    """Where a file is, and whether it was downloaded for that."""

    path: Path
    is_new: bool


def download(file: PublicFile, folders: ModelFolders, progress: Progress = silent) -> Outcome:
    """Download a public file to where it belongs, or go on where an earlier attempt ended.

    Args:
        file: to be had.
        folders: ComfyUI's; it goes into the folder `models`.
        progress: told of bytes.

    Raises:
        ValueError: another file has its name.
        DownloadError: the source, the connection, the disk or the checksum.
        KeyboardInterrupt: what has been downloaded stays, under a name of its own.
    """
    target = file.target(folders.models)
    found = check_public_file(file, folders, progress)
    if found.status == "there" and found.path.name == target.name:
        return Outcome(found.path, False)
    if found.status == "damaged" and not file.members:
        raise ValueError(
            f"{found.path} is there already, and {found.note}. Delete it, or move it away if it is another file; then "
            "run this again."
        )
    if file.licence == RESEARCH_ONLY:
        logger.warning("%s may be used for non-commercial research only.", file.name)
    if found.status == "there":
        logger.info("The same file is there already: %s.", found.path)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _answered(file):
            source = _source(file)
        name = f"{file.file}.zip" if file.members else file.file
        partial = target.parent / f".{name}.{(source.sha256 or 'unknown')[:12]}{PARTIAL}"
        with _alone(partial):
            _fetch(file, source, partial, progress)
            if file.members:
                _unpack(file, partial, target, progress)
                partial.unlink()
            else:
                os.replace(partial, target)
    except PermissionError as error:
        raise DownloadError(
            f"{file.name} cannot be written to {target.parent} ({error}). Run this as the user who owns that folder."
        ) from error
    return Outcome(target, True)


def _source(file: PublicFile) -> _Source:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    if file.url:
        # Never with the Hub's token: this is somebody else's server. Nor packed, which has no known size.
        headers = build_hf_headers(token=False) | {"Accept-Encoding": "identity"}
        return _Source(url=file.url, headers=headers, size=file.size, sha256=file.sha256)
    url = hf_hub_url(file.repository, file.path, revision=file.revision)
    metadata = get_hf_file_metadata(url)
    etag = metadata.etag or ""
    told = etag if re.fullmatch(r"[0-9a-f]{64}", etag) else None  # of small files the ETag is git's
    if (told and file.sha256 and told != file.sha256) or (metadata.size and file.size and metadata.size != file.size):
        raise DownloadError(
            f"{url} is another file than BoLID knows: {readable_size(metadata.size)} with the checksum {told}, not "
            f"{readable_size(file.size)} with {file.sha256}. If HF_ENDPOINT is set to a mirror, unset it; else update "
            "BoLID."
        )
    return _Source(url=url, headers=build_hf_headers(), size=metadata.size or file.size, sha256=file.sha256 or told)


def _fetch(file: PublicFile, source: _Source, partial: Path, progress: Progress) -> None:
    """Download the rest of a partial file, and compare the whole with what it has to be."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import disable_progress_bars

    have = partial.stat().st_size if partial.exists() else 0
    if source.size is not None and have > source.size:
        partial.unlink()
        have = 0
    unpacked = sum(member.size for member in file.members)
    _check_space(file, (source.size or 0) - have + unpacked, partial.parent)
    disable_progress_bars()  # they would run across ours
    stage = f"downloading {file.name}"
    progress(stage, have, source.size or 0)
    with _answered(file), _ToldFile(partial, lambda done: progress(stage, done, source.size or 0)) as out:
        http_get(source.url, out, resume_size=have, headers=source.headers, expected_size=source.size)
    if source.sha256 is None:
        logger.warning("The checksum of %s is not known; only its size was compared.", file.name)
        return
    found = sha256_of(partial, progress)
    if found != source.sha256:
        partial.unlink()
        raise DownloadError(
            f"{file.name} arrived with the checksum {found}, not {source.sha256}; it was deleted. Run this again; if "
            "that happens twice, a proxy or mirror changes the file."
        )


class _ToldFile(io.BufferedWriter):
    """A file that is added to, and tells how long it is."""

    def __init__(self, path: Path, told: Callable[[int], None]):
        super().__init__(io.FileIO(path, "ab"))
        self._told = told

    def write(self, data: Any) -> int:
        written = super().write(data)
        self._told(self.tell())
        return written


def _check_space(file: PublicFile, needed: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if needed + SPARE > free:
        raise DownloadError(
            f"{file.name} needs {readable_size(needed)} more, but the disk of {folder} has {readable_size(free)} free. "
            "Make room, or give --models a folder on another disk."
        )


@contextmanager
def _alone(partial: Path) -> Iterator[None]:
    """No other process downloads the same file meanwhile."""
    from filelock import FileLock, Timeout

    lock = partial.with_name(partial.name.removesuffix(PARTIAL) + ".lock")
    try:
        with FileLock(lock, timeout=0):
            try:
                yield
            finally:
                with suppress(PermissionError):  # Windows deletes no file that is open
                    lock.unlink(missing_ok=True)
    except Timeout:
        raise DownloadError(
            f"Another process is downloading {partial.name} into {partial.parent}. Wait for it, or stop it."
        ) from None


@contextmanager
def _answered(file: PublicFile) -> Iterator[None]:
    """What servers and connections say becomes one message."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    by_hand = f"Or fetch {file.source} elsewhere and put it into models/{file.folder} as {file.file}."
    if file.members:
        by_hand = f"Or fetch {file.source} elsewhere and unpack its files into models/{file.folder}/{file.file}."
    try:
        yield
    except (DownloadError, PermissionError):
        raise
    except OfflineModeIsEnabled as error:
        raise DownloadError(
            f"{file.name} is not downloaded, because HF_HUB_OFFLINE is set. Unset it. {by_hand}"
        ) from error
    except HfHubHTTPError as error:
        raise DownloadError(_of_answer(file, error, by_hand)) from error
    except Exception as error:  # the HTTP library below huggingface_hub changes with its version
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise DownloadError(
                f"The disk was full before {file.name} was whole. Make room; the same command then goes on."
            ) from error
        raise DownloadError(
            f"{file.name} could not be downloaded from {file.source} ({str(error) or type(error).__name__}). Check the "
            "connection, a proxy (HTTPS_PROXY) and, for a mirror of the Hub, HF_ENDPOINT; the same command goes on "
            f"from here. {by_hand}"
        ) from error


def _of_answer(file: PublicFile, error: Any, by_hand: str) -> str:
    status = error.response.status_code
    url = str(error.response.url)
    if status in (401, 403):
        return (
            f"{url} wants an account (HTTP {status}). BoLID's public files need none: a token that is no longer valid "
            f"(HF_TOKEN, or `hf auth logout`) or a mirror (HF_ENDPOINT) is in the way. {by_hand}"
        )
    if status == 404:
        return f"{url} is not there (HTTP 404). A mirror may lack it: unset HF_ENDPOINT; else update BoLID. {by_hand}"
    if status == 429:
        return (
            f"{url} has been asked too often from here (HTTP 429). Wait some minutes, or log in (`hf auth login`), "
            "which raises the limit; the same command goes on from here."
        )
    return f"{url} answered with HTTP {status}. Wait, and run the same command again: it goes on from here. {by_hand}"


def _unpack(file: PublicFile, archive: Path, folder: Path, progress: Progress) -> None:
    """Unpack exactly the files of a pack, check each, and put them into place together.

    Names and sizes are those of the table, never the archive's: what else it holds is left out.
    """
    staging = folder.parent / f".{file.file}{PARTIAL}"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir()
        with zipfile.ZipFile(archive) as packed:
            entries = {Path(entry.filename).name: entry for entry in packed.infolist() if not entry.is_dir()}
            for member in file.members:
                if member.file not in entries:
                    raise DownloadError(f"The archive of {file.name} has no {member.file}. Update BoLID.")
                with packed.open(entries[member.file]) as source, (staging / member.file).open("xb") as out:
                    _copy(source, out, member.size)
                if sha256_of(staging / member.file, progress) != member.sha256:
                    raise DownloadError(
                        f"{member.file} from the archive of {file.name} has another checksum than BoLID knows. Delete "
                        f"{archive} and run this again."
                    )
        if not folder.exists():
            os.replace(staging, folder)
        else:
            for path in staging.iterdir():
                os.replace(path, folder / path.name)
    except zipfile.BadZipFile as error:
        raise DownloadError(f"The archive of {file.name} is damaged ({error}). Delete {archive}, run again.") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _copy(source: Any, out: Any, size: int) -> None:
    """At most `size` bytes and one more, so that an archive that unpacks to more is found by its checksum."""
    left = size + 1
    while left > 0 and (chunk := source.read(min(CHUNK, left))):
        out.write(chunk)
        left -= len(chunk)


def with_needed(files: Sequence[PublicFile]) -> list[PublicFile]:
    """These files, and those that they need, each once."""
    names = [name for file in files for name in (file.name, *file.needs)]
    return public_files(list(dict.fromkeys(names)))
