"""From a folder to a search: what is exported, what is indexed, and what a user is told to do next."""

import shutil
from pathlib import Path

import pytest

from export.options import ExportOptions
from runtime import Retriever
from tools import init


def test_a_folder_is_learned_from_indexed_and_can_be_searched(
    engine: Path, photos: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[ExportOptions] = []

    def export(options: ExportOptions) -> None:
        asked.append(options)
        shutil.copytree(engine.parent, options.out.parent)

    monkeypatch.setattr(init, "export_checkpoint", export)
    folder, out = Path(photos[0]).parent, tmp_path / "out"
    init.main([str(folder), "--out", str(out), "--threads", "1"])
    assert [(str(each.checkpoint), each.learn, each.out) for each in asked] == [
        ("efficientnet_lite0", folder, out / "engine.onnx")
    ]
    printed = capsys.readouterr().out
    assert f"python tools/search.py {out / 'engine.onnx'} {photos[0]}" in printed
    assert f"python tools/serve.py {out / 'engine.onnx'} --photos {folder}" in printed
    assert f"python tools/index.py {out / 'engine.onnx'} {folder} --root {folder} --sync" in printed
    with Retriever(out / "engine.onnx", root=folder, device="cpu") as retriever:
        assert retriever.ids() == [Path(photo).name for photo in photos]
        assert retriever.search(photos[2], top=1)[0].id == Path(photos[2]).name
