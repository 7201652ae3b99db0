"""How commands start, as ``howl NAME`` and as scripts: what keeps one from its packages is a line."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import howl

HOME = Path(howl.__file__).parent
SCRIPTS = [
    path
    for folder in ("train", "export", "tools", "tools/experiments")
    for path in sorted((HOME / folder).glob("*.py"))
    if "def main(" in path.read_text(encoding="utf-8") and path.name != "cli.py"
]
INTERRUPT = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
WRAPPED = f"""
class Field:
    def __set_name__(self, owner, name):
        {INTERRUPT.replace(chr(10), "; ")}
class Owner:
    field = Field()
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """``start(words, package, source)``: starts Python with ``words`` and with a module in the place of a package."""

    def run(words: list[str], package: str, source: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / f"{package}.py").write_text(source)
        path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
        command = [sys.executable, *words]
        return subprocess.run(
            command, env=os.environ | {"PYTHONPATH": path}, cwd=HOME, capture_output=True, text=True, timeout=60
        )

    return run


AS_HOWL_AND_AS_SCRIPT = pytest.mark.parametrize(
    "words", [["howl.py", "train"], ["train/run.py"], ["export/to_trt.py"]], ids=lambda words: " ".join(words)
)


@AS_HOWL_AND_AS_SCRIPT
def test_without_a_package_the_line_says_how_to_get_it(start: Callable, words: list[str]) -> None:
    done = start(words, "tyro", "raise ModuleNotFoundError(name='tyro')")
    name = words[-1] if len(words) == 1 else "howl train"
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"error: {name} needs tyro: in howl's folder, pip install '.[train]'\n"


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGINT")
@AS_HOWL_AND_AS_SCRIPT
@pytest.mark.parametrize(("package", "source"), [("numpy", INTERRUPT), ("tyro", INTERRUPT), ("tyro", WRAPPED)])
def test_an_interrupt_of_the_imports_is_a_line(start: Callable, words: list[str], package: str, source: str) -> None:
    done = start(words, package, source)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_starts_as_its_own_module_before_its_imports(script: Path) -> None:
    module = ".".join(script.relative_to(HOME).with_suffix("").parts)
    before, start, _ = script.read_text(encoding="utf-8").partition(f'howl.run_script("{module}")')
    assert start
    assert "\nimport " not in before


def test_a_package_of_another_project_is_named(tmp_path: Path, run_python: Callable) -> None:
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "__init__.py").touch()
    done = run_python("import sys; sys.path.insert(0, sys.argv[1]); import howl; sys.exit(howl.main())", tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[0].startswith(f"error: the package 'tools' is taken from {tmp_path / 'tools'}")
    assert done.stderr.splitlines()[1].startswith("error: install howl into an environment of its own")
