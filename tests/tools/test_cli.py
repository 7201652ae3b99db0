"""The command ``howl``: each of its names is a command of the repository, and what is missing is a clear line."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

import howl
from tools import cli


def test_every_command_has_a_main() -> None:
    for command in cli.COMMANDS.values():
        assert (Path(howl.__file__).parent / f"{command.module.replace('.', '/')}.py").is_file()


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A command that prints its arguments."""
    module = ModuleType("echo")
    module.main = lambda arguments: print(sys.argv)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "echo", module)
    monkeypatch.setitem(cli.COMMANDS, "echo", cli.Command("echo", "print"))
    monkeypatch.setattr(sys, "argv", ["howl"])
    return module


def test_a_command_is_given_the_arguments_behind_its_name(echo: ModuleType, capsys: pytest.CaptureFixture) -> None:
    assert cli.run(["echo", "--help", "b"]) == 0
    assert capsys.readouterr().out == "['howl echo', '--help', 'b']\n"


@pytest.mark.parametrize(
    ("missing", "line"),
    [
        ("torch", "error: howl echo needs torch: in howl's folder, pip install '.[train]'\n"),
        ("onnxruntime.capi", "error: howl echo needs onnxruntime: in howl's folder, pip install '.[cpu]'\n"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(
    echo: ModuleType, capsys: pytest.CaptureFixture, missing: str, line: str
) -> None:
    def fail(arguments: object) -> None:
        raise ModuleNotFoundError(name=missing)

    echo.main = fail  # type: ignore[attr-defined]
    assert cli.run(["echo"]) == 1
    assert capsys.readouterr().err == line


@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["nothing"], 2), (["--version"], 0), (["--help"], 0)])
def test_usage(arguments: list[str], status: int, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.run(arguments)
    assert caught.value.code == status
    printed = capsys.readouterr()
    assert ("howl 0." in printed.out) == (arguments == ["--version"])
    assert all(name in printed.out for name in cli.COMMANDS) == (arguments == ["--help"])


def test_a_package_of_another_project_is_named(tmp_path: Path, run_python: Callable) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "__init__.py").touch()
    done = run_python("import sys; sys.path.insert(0, sys.argv[1]); import howl; sys.exit(howl.main())", tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith(f"error: the package 'tools' is taken from {tmp_path / 'tools'}")
    assert done.stderr.splitlines()[1].startswith("error: install howl into an environment of its own")
