"""What all experiments share: folders that keep what they hold, and plain endings."""

import dataclasses
from pathlib import Path

import pytest

from experiments import cli


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    out: Path | None = None
    number: int = 1


VARIANTS = {"default": Config(), "paper": Config(number=7)}


def run(arguments, experiment):
    return cli.main(
        experiment, VARIANTS, module="experiments.cli", description="", arguments=arguments
    )


def test_a_variant_is_what_the_options_start_from():
    seen = []
    assert run([], seen.append) == 0
    assert run(["--variant", "paper"], seen.append) == 0
    assert run(["--variant=paper", "--out", "a"], seen.append) == 0
    assert run(["--number", "3", "--variant", "paper"], seen.append) == 0
    assert seen == [
        Config(),
        Config(number=7),
        Config(number=7, out=Path("a")),
        Config(number=3),
    ]


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("wrong"), 2), (OSError("no disk"), 2), (KeyboardInterrupt(), 130)],
    ids=repr,
)
def test_an_error_ends_in_one_line(capsys, error, status):
    def experiment(_):
        raise error

    assert run([], experiment) == status
    printed = capsys.readouterr().err
    assert printed == (f"error: {error}\n" if status == 2 else "interrupted\n")


def test_a_mistake_in_the_program_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run([], lambda _: 1 / 0)


def test_results_never_go_where_something_is(tmp_path):
    default = tmp_path / "out/name"
    assert cli.make_folder(None, default) == default
    assert cli.make_folder(None, default).name == "name-2"
    assert cli.make_folder(None, default).name == "name-3"
    given = tmp_path / "given"
    assert cli.make_folder(given, default) == given
    assert cli.make_folder(given, default) == given  # still empty
    (given / "picture").touch()
    with pytest.raises(ValueError, match="given exists and is not an empty folder"):
        cli.make_folder(given, default)
    with pytest.raises(ValueError, match=r"out cannot be made: .*picture is not a folder to write"):
        cli.check_folder(given / "picture/out")


def test_a_folder_that_cannot_be_written_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(cli.os, "access", lambda path, mode: Path(path) != tmp_path)  # root may all
    with pytest.raises(ValueError, match="cannot be made: .* is not a folder to write in"):
        cli.check_folder(tmp_path / "a/b")
    monkeypatch.undo()
    cli.check_folder(tmp_path / "a/b")
    assert not (tmp_path / "a").exists()


def test_a_link_to_nowhere_is_an_error_and_not_a_search_for_ever(tmp_path):
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match="cannot make the folder .*another by --out"):
        cli.make_folder(None, tmp_path / "out/run")
