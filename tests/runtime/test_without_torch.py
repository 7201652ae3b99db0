"""What is deployed runs where there is no PyTorch, no `train` and no `export`."""

import ast
import json
from collections.abc import Callable
from pathlib import Path

import runtime

HIDDEN = ["torch", "torchvision", "onnx", "onnxscript", "faiss", "matplotlib", "train", "export", "tools"]


def test_photos_are_indexed_and_found_in_a_process_without_torch(
    exported: Path, photos: list[str], tmp_path: Path, run_python: Callable
) -> None:
    done = run_python(
        """
import json, sys
engine, index, hidden, *photos = sys.argv[1:]
sys.modules |= dict.fromkeys(json.loads(hidden))  # None: importing it fails
from runtime import Retriever
with Retriever(engine, index, device="cpu") as retriever:
    report = retriever.add(photos)
    best = [hits[0].id for hits in retriever.search_many(photos)]
    retriever.remove(photos[:1])
    left = len(retriever)
loaded = sorted({name.partition(".")[0] for name, module in sys.modules.items() if module is not None})
print(json.dumps([report.added, report.skipped, best, left, loaded]))
""",
        exported / "engine.onnx",
        tmp_path / "index",
        json.dumps(HIDDEN),
        *photos,
    )
    assert done.returncode == 0, done.stderr
    added, skipped, best, left, loaded = json.loads(done.stdout)
    assert added == best == photos
    assert skipped == {}
    assert left == len(photos) - 1
    assert "runtime" in loaded
    assert not set(HIDDEN) & set(loaded)


def imported_names(file: Path) -> set[str]:
    """The packages that a module imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.partition(".")[0])
    return names


def test_no_module_of_runtime_imports_what_lies_above_it() -> None:
    files = list(Path(runtime.__file__).parent.rglob("*.py"))
    assert files
    above = {"torch", "torchvision", "train", "export", "tools"}
    assert {file: names for file in files if (names := imported_names(file) & above)} == {}
