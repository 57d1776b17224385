"""Bundles on their way: to and from a folder, a .zip, and a repository of the Hugging Face Hub (captioner[hub]).

Only the files that a bundle's manifest names go along. Every hash is checked on arrival; nothing is unpickled or run.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from captioner.atomic import replace_file
from captioner.bundle import MANIFEST, Bundle, BundleError, default_bundle, read_manifest

MAX_FILES = 64
"""In a bundle from elsewhere; ours have about ten."""
MAX_BYTES = 4 << 30
"""In a zip, unpacked."""
MAX_MANIFEST_BYTES = 1 << 20
FIRST_DAY = (1980, 1, 1, 0, 0, 0)  # the earliest that a zip can say


class HubError(RuntimeError):
    """The Hub did not take or give a bundle; the message is one sentence."""


def save(bundle: str | Path | Bundle, target: str | Path) -> Path:
    """Copy a bundle to a new folder or, where the name ends in .zip, into one file: whole or not at all.

    The same bundle makes the same bytes. The zip is stored: to deflate it would save an eighth of int8 graphs, and make
    other bytes with another zlib. Raises BundleError, or ValueError where the target is there or cannot be written.
    """
    opened = _reopened(bundle)
    target = Path(target)
    if target.is_file() or (target.is_dir() and (_is_zip(target) or any(target.iterdir()))):
        raise ValueError(f"{target} is there already")
    try:
        if _is_zip(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            replace_file(target, partial(_pack, opened.folder))
        else:
            with _placed(target, opened.folder) as made:
                for name in _names(opened.folder):
                    replace_file(made / name, partial(shutil.copyfile, opened.folder / name))
    except OSError as e:
        raise ValueError(f"{target} cannot be written: {e.strerror or e}") from e
    return target


def load(source: str | Path | None = None, cache: str | Path | None = None) -> Bundle:
    """Open a folder, a .zip, or for None default_bundle(); raises BundleError.

    A .zip is unpacked once, to a folder of the cache (~/.cache/captioner if not given) that is named by its SHA-256.
    """
    path = default_bundle() if source is None else Path(source)
    if not _is_zip(path) or path.is_dir():
        return Bundle.open(path)
    cache = _cache() if cache is None else Path(cache)
    try:
        with path.open("rb") as file:
            folder = cache / hashlib.file_digest(file, "sha256").hexdigest()
            if not folder.is_dir():
                _unpack(file, path, folder)
    except OSError as e:
        raise BundleError(f"bundle {path} cannot be unpacked to {cache}: {e.strerror or e}") from e
    return Bundle.open(folder)


def push_to_hub(
    bundle: str | Path | Bundle,
    repo_id: str,
    private: bool | None = None,
    token: str | None = None,
    revision: str | None = None,
) -> str:
    """Upload a bundle in one commit, whose id is returned; the repository and the branch are made if they are missing.

    private: of a new repository, None for the account's usual; one that is public already is refused. token: None for
    the one that the machine is logged in with. revision: a branch, None for main. Raises BundleError or HubError.
    """
    opened = _reopened(bundle)
    names = _names(opened.folder)
    with _hub(repo_id) as hub:
        api = hub.HfApi(token=token)
        api.create_repo(repo_id, private=private, exist_ok=True)
        if private and not api.repo_info(repo_id).private:
            raise HubError("the repository is there already, and it is public")
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        files = [hub.CommitOperationAdd(name, str(opened.folder / name)) for name in names]
        title = f"{opened.name} {opened.version}"
        return str(api.create_commit(repo_id, files, commit_message=title, revision=revision).oid)


def from_hub(
    repo_id: str,
    revision: str | None = None,
    version: str | None = None,
    token: str | None = None,
    cache: str | Path | None = None,
) -> Bundle:
    """Download a bundle into the Hub's cache, or another; files that are there already are not fetched again.

    revision: a branch, tag or commit, None for main. version: the only one that is accepted, as the bundle's 12 digits
    (against mistakes) or as sha256() has it (against malice). Raises BundleError or HubError.
    """
    with _hub(repo_id) as hub:
        manifest = Path(hub.hf_hub_download(repo_id, MANIFEST, revision=revision, token=token, cache_dir=cache))
    folder = manifest.parent  # the cache calls it by the commit, so that all files are of one
    with _blaming(repo_id, folder):
        names = _names(folder)
        if version not in (None, found := sha256(folder), found[:12]):
            raise BundleError(f"{repo_id} holds the version {found[: len(version)]}, not {version}")
    with _hub(repo_id) as hub:
        for name in names:
            hub.hf_hub_download(repo_id, name, revision=folder.name, token=token, cache_dir=cache)
    with _blaming(repo_id, folder):
        return Bundle.open(folder)


def sha256(folder: str | Path) -> str:
    """All 64 digits of a bundle's version: the hash of its manifest, which has those of the other files."""
    return hashlib.sha256((Path(folder) / MANIFEST).read_bytes()).hexdigest()


def _is_zip(path: Path) -> bool:
    return path.suffix.lower() == ".zip"


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "captioner"


def _reopened(bundle: str | Path | Bundle) -> Bundle:
    """The bundle, its files as they are now."""
    return Bundle.open(bundle.folder) if isinstance(bundle, Bundle) else load(bundle)


def _names(folder: Path) -> list[str]:
    """The files that make up a bundle, the manifest too."""
    manifest = folder / MANIFEST
    if manifest.is_file() and (size := manifest.stat().st_size) > MAX_MANIFEST_BYTES:
        raise BundleError(f"bundle {folder}: {MANIFEST} must have at most {MAX_MANIFEST_BYTES} bytes, got {size}")
    names = sorted({MANIFEST, *read_manifest(folder)[0]})
    if len(names) > MAX_FILES:
        raise BundleError(f"bundle {folder}: there must be at most {MAX_FILES} files, got {len(names)}")
    return names


@contextmanager
def _blaming(source: object, folder: Path) -> Iterator[None]:
    """Errors name where a bundle came from, not the folder that it was put in."""
    try:
        yield
    except BundleError as e:
        raise BundleError(str(e).replace(str(folder), str(source))) from e


@contextmanager
def _placed(target: Path, source: Path) -> Iterator[Path]:
    """A folder to fill, which takes the target's place at once if it is a whole bundle by then."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".", dir=target.parent) as unfinished:
        made = Path(unfinished) / "bundle"
        made.mkdir()
        with _blaming(source, made):
            yield made
            Bundle.open(made)
        made.rename(target)


def _pack(folder: Path, file: Path) -> None:
    with ZipFile(file, "w", ZIP_STORED) as archive:
        for name in _names(folder):
            entry = ZipInfo(name, FIRST_DAY)
            entry.create_system = 3  # Unix, whatever this is
            entry.external_attr = (stat.S_IFREG | 0o644) << 16
            entry.file_size = (folder / name).stat().st_size
            with (folder / name).open("rb") as source, archive.open(entry, "w") as packed:
                shutil.copyfileobj(source, packed)


def _unpack(file: BinaryIO, path: Path, folder: Path) -> None:
    """Make the folder of a zip that holds a manifest, the files that it names, and nothing else."""
    try:
        with ZipFile(file) as archive, _placed(folder, path) as made:
            entries = _plain(archive.infolist(), path)
            _extract(archive, entries[MANIFEST], made)
            names = _names(made)
            if strange := sorted(entries.keys() - names):
                raise BundleError(f"bundle {path} holds {strange[0]!r}, which its {MANIFEST} does not name")
            if missing := sorted(set(names) - entries.keys()):
                raise BundleError(f"bundle {path}: {missing[0]} is missing")
            for name in names:
                _extract(archive, entries[name], made)
    except BundleError:
        raise
    except OSError:
        if not folder.is_dir():  # else another process was faster
            raise
    except (BadZipFile, EOFError, RuntimeError, ValueError, struct.error, zlib.error) as e:
        raise BundleError(f"bundle {path} is no zip that can be read: {e}") from e


def _plain(entries: Sequence[ZipInfo], path: Path) -> dict[str, ZipInfo]:
    """By name, if they are files, each there once, and not too many or too large."""
    if len(entries) > MAX_FILES:
        raise BundleError(f"bundle {path}: there must be at most {MAX_FILES} files, got {len(entries)}")
    if (size := sum(entry.file_size for entry in entries)) > MAX_BYTES:  # zipfile never writes more than an entry says
        raise BundleError(f"bundle {path}: its files must have at most {MAX_BYTES} bytes together, got {size}")
    for name, times in Counter(entry.filename for entry in entries).items():
        if times > 1:
            raise BundleError(f"bundle {path} holds {name!r} {times} times")
    for entry in entries:
        if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
            raise BundleError(f"bundle {path} holds {entry.filename!r}, which is a link or folder and no file")
        if entry.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise BundleError(f"bundle {path}: {entry.filename!r} is neither stored nor deflated")
    if MANIFEST not in (found := {entry.filename: entry for entry in entries}):
        raise BundleError(f"no bundle in {path}: {MANIFEST} is not at its top")
    return found


def _extract(archive: ZipFile, entry: ZipInfo, folder: Path) -> None:
    def write(file: Path) -> None:
        with archive.open(entry) as packed, file.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked)

    replace_file(folder / entry.filename, write)


@contextmanager
def _hub(repo_id: str) -> Iterator[Any]:
    """The Hub's library; its errors become HubError."""
    try:
        import huggingface_hub
    except ImportError as e:
        raise HubError(f"the Hub needs its own library: install captioner[hub] ({e})") from e
    try:
        yield huggingface_hub
    except Exception as e:  # the library's own, and those of the HTTP client that its version has
        raise HubError(f"{repo_id}: {' '.join(str(e).split()) or type(e).__name__}") from e
