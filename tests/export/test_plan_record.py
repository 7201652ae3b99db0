"""What the manifest says of a plan once it is built and proven."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from export import exporter
from export.plan import PlanInfo
from runtime.bundle import EngineFiles, Manifest, load_manifest
from runtime.errors import HowlError
from runtime.io.image import MIN_SIDE


@pytest.fixture
def add_plan(engine: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Adds a plan to an engine, where TensorRT builds whatever it is given and `prove` decides."""

    def build(onnx: Path, plan: Path, **sizes: Any) -> PlanInfo:
        plan.write_bytes(b"a plan")
        return PlanInfo("tensorrt", "11.4.0.106", (9, 0), size=6, seconds=1.0, warnings=())

    def add(prove: Any) -> Path:
        monkeypatch.setattr(exporter, "build_plan", build)
        monkeypatch.setattr(exporter, "prove", prove)
        checkpoint: Any = SimpleNamespace(extraction=SimpleNamespace(image_size=128))
        exporter.add_plan(checkpoint, "fp32", EngineFiles.of(engine), [], say=print)
        return engine.with_suffix(".plan")

    return add


def test_the_manifest_says_what_the_plan_was_built_by_and_for(add_plan: Any) -> None:
    manifest = load_manifest(add_plan(prove=lambda *_: None))
    assert manifest.plan == {
        "flavour": "tensorrt",
        "version": "11.4.0.106",
        "compute_capability": [9, 0],
        "smallest": MIN_SIDE,
        "largest": 128,
    }


def test_a_plan_that_is_not_proven_leaves_nothing(add_plan: Any, engine: Path) -> None:
    def refuse(*_: Any) -> None:
        raise HowlError("not equal")

    before = Manifest.load(EngineFiles.of(engine).manifest)
    with pytest.raises(HowlError, match="not equal"):
        add_plan(prove=refuse)
    assert not engine.with_suffix(".plan").exists()
    assert Manifest.load(EngineFiles.of(engine).manifest) == before
