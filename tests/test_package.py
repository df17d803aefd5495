"""What is handed on: the wheel and the source archive, their version, and how to cite them."""

import contextlib
import email
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml  # flax needs it
from hatchling import build
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import cxjax

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    with contextlib.chdir(ROOT):
        name = build.build_wheel(str(folder))
    with zipfile.ZipFile(folder / name) as archive:
        yield archive


def _library():
    return {str(path.relative_to(ROOT)) for path in ROOT.glob("cxjax/**/*.py")} | {"cxjax/py.typed"}


def test_the_wheel_has_the_library_and_nothing_else(wheel):
    about = f"cxjax-{PROJECT['version']}.dist-info"
    metadata = {"METADATA", "WHEEL", "RECORD", "licenses/LICENSE"}
    assert set(wheel.namelist()) == _library() | {f"{about}/{name}" for name in metadata}


def test_the_source_archive_has_the_library_and_what_is_said_of_it(tmp_path):
    with contextlib.chdir(ROOT):
        name = build.build_sdist(str(tmp_path))
    with tarfile.open(tmp_path / name) as archive:
        files = {member.name.partition("/")[2] for member in archive.getmembers()}
    about = {"README.md", "LICENSE", "CHANGELOG.md", "CITATION.cff", "pyproject.toml"}
    assert files == _library() | about | {"PKG-INFO", ".gitignore"}  # hatchling adds these two


def test_the_wheel_asks_for_what_is_declared(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith("/METADATA")]
    metadata = email.message_from_bytes(wheel.read(name))
    assert metadata["Requires-Python"] == PROJECT["requires-python"]
    extras = PROJECT["optional-dependencies"]
    assert sorted(metadata.get_all("Provides-Extra")) == sorted(extras)
    asked = [Requirement(one) for one in metadata.get_all("Requires-Dist")]
    plain = [one for one in asked if one.marker is None]
    assert _names(plain) == _names(map(Requirement, PROJECT["dependencies"]))
    for extra in extras:
        own = [one for one in asked if one.marker and one.marker.evaluate({"extra": extra})]
        assert _names(own) == _names(_declared(extra)), extra


def _declared(extra):
    """The requirements of an extra, with those of the extras that it names."""
    for one in map(Requirement, PROJECT["optional-dependencies"][extra]):
        if one.name == PROJECT["name"]:
            for inner in one.extras:
                yield from _declared(inner)
        else:
            yield one


def _names(requirements):
    return {(canonicalize_name(one.name), one.specifier) for one in requirements}


def test_of_several_wheels_none_is_tried():
    """As `dist/*.whl` is where an older one still lies."""
    command = [sys.executable, ROOT / "tests/wheel_smoke.py", "cxjax-0.1.whl", "cxjax-0.2.whl"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 1
    assert run.stderr == "give one wheel; got cxjax-0.1.whl, cxjax-0.2.whl\n"


def test_there_is_one_version():
    assert cxjax.__version__ == PROJECT["version"]
    headings = re.findall(r"^## \[(.+)\] - .+$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert headings[0] == PROJECT["version"]
    assert CITATION["version"] == PROJECT["version"]


def test_the_citation_has_what_its_format_asks_for():
    assert CITATION["cff-version"] == "1.2.0"
    assert CITATION["license"] == PROJECT["license"]
    assert CITATION["authors"] == PROJECT["authors"]
    assert CITATION["keywords"] == PROJECT["keywords"]
    assert CITATION["message"]
    for work in (CITATION, *CITATION["references"]):
        assert work["title"]
        assert work["type"] in ("software", "conference-paper", "article")
        assert all("name" in author or "family-names" in author for author in work["authors"])


def test_the_papers_cited_are_those_that_the_docstrings_name():
    for paper in CITATION["references"]:
        for name in paper["scope"].split(", "):
            text = getattr(cxjax, name).__doc__.partition("References:")[2]
            assert paper["authors"][0]["family-names"] in text, f"{name}: {paper['title']}"
            assert str(paper["year"]) in text, f"{name}: {paper['title']}"
    named = {one for paper in CITATION["references"] for one in paper["scope"].split(", ")}
    losses = {name for name in vars(cxjax) if name.endswith("_loss")}
    assert losses - named == {"l1_loss", "l2_loss"}  # in every paper
