"""The command ``howl``: each of its names is a command of the repository."""

import sys
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
    module.main = lambda: print(sys.argv)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "echo", module)
    monkeypatch.setitem(cli.COMMANDS, "echo", cli.Command("echo", "print"))
    monkeypatch.setattr(sys, "argv", ["howl"])
    return module


def test_a_command_is_given_the_arguments_behind_its_name(echo: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["echo", "--help", "b"])
    assert capsys.readouterr().out == "['howl echo', '--help', 'b']\n"


@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["nothing"], 2), (["--version"], 0), (["--help"], 0)])
def test_usage(arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == status
    printed = capsys.readouterr()
    assert ("howl 0." in printed.out) == (arguments == ["--version"])
    assert all(name in printed.out for name in cli.COMMANDS) == (arguments == ["--help"])
