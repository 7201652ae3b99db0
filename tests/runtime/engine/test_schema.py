"""The graph's outputs, and the features that they mean."""

from pathlib import Path

import numpy as np
import pytest

from runtime.engine.schema import GLOBAL_OUTPUTS, LOCAL_OUTPUTS, check_tensors, features_of
from runtime.errors import IncompatibleError

FILE = Path("engine.onnx")


@pytest.mark.parametrize("outputs", [LOCAL_OUTPUTS, GLOBAL_OUTPUTS, (*LOCAL_OUTPUTS, *GLOBAL_OUTPUTS)])
def test_a_graph_may_be_local_global_or_both(outputs: tuple[str, ...]) -> None:
    assert check_tensors(FILE, ["image"], [*outputs, "something else"]) == outputs


@pytest.mark.parametrize(
    ("inputs", "outputs", "missing"),
    [
        (["picture"], LOCAL_OUTPUTS, "input 'image'"),
        (["image"], ["logits"], "output 'descriptors'"),
        (["image"], LOCAL_OUTPUTS[:3], "output 'count'"),
        (["image"], [*GLOBAL_OUTPUTS, "descriptors"], "output 'strengths'"),
    ],
)
def test_any_other_graph_is_refused_by_what_it_lacks(inputs: list[str], outputs: list[str], missing: str) -> None:
    with pytest.raises(IncompatibleError, match=f"^engine.onnx: has no {missing}: it is not an engine"):
        check_tensors(FILE, inputs, outputs)


@pytest.mark.parametrize("count", [np.array(2, np.int64), np.array([2], np.int32)])
def test_padding_is_cut_off_and_types_are_float32(count: np.ndarray) -> None:
    rows = np.arange(12.0).reshape(4, 3)
    features = features_of({"descriptors": rows, "strengths": rows[:, 0], "positions": rows, "count": count})
    local = features.need_local()
    assert local.descriptors.tolist() == local.positions.tolist() == rows[:2].tolist()
    assert local.strengths.tolist() == rows[:2, 0].tolist()
    assert {array.dtype for array in (local.descriptors, local.strengths, local.positions)} == {np.dtype("f4")}
    with pytest.raises(IncompatibleError, match="local features only"):
        features.need_global()


def test_a_global_descriptor_alone_is_no_local_feature() -> None:
    features = features_of({"global_descriptor": np.array([0.6, 0.8], np.float16)})
    assert features.need_global().dtype == np.float32
    with pytest.raises(IncompatibleError, match="global descriptor only"):
        features.need_local()
