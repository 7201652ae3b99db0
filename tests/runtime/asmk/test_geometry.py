"""Where entries lie: what packing keeps."""

import numpy as np
import pytest

from runtime.asmk.codebook import Codebook
from runtime.asmk.geometry import pack_geometry, unpack_geometry
from runtime.asmk.kernel import AsmkKernel, AsmkParameters
from runtime.features import Features, LocalFeatures


def test_positions_come_back_to_a_pixel_and_a_16th_of_an_octave() -> None:
    random = np.random.default_rng(0)
    positions = np.stack(
        [random.uniform(0, 16_383, 1000), random.uniform(0, 16_383, 1000), 2 ** random.uniform(-3.3, 4, 1000)], axis=1
    ).astype(np.float32)
    back = unpack_geometry(pack_geometry(positions))
    assert np.abs(back[:, :2] - positions[:, :2]).max() <= 1
    assert np.abs(np.log2(back[:, 2] / positions[:, 2])).max() <= 1 / 16 + 1e-6
    np.testing.assert_array_equal(pack_geometry(back), pack_geometry(positions))


@pytest.mark.parametrize("scale", [2.0, 1.414, 1.0, 0.707, 0.5, 0.353, 0.25])
def test_the_levels_of_the_usual_pyramids_are_met_exactly(scale: float) -> None:
    (back,) = unpack_geometry(pack_geometry(np.array([[1, 2, scale]], np.float32)))
    assert back[2] == pytest.approx(scale, rel=2e-3)


def test_what_lies_outside_is_moved_to_the_edge() -> None:
    far = np.array([[-5, 20_000, 0.01], [20_000, -5, 100]], np.float32)
    back = unpack_geometry(pack_geometry(far))
    assert back[:, :2].tolist() == [[0, 16_382], [16_382, 0]]
    assert back[0, 2] <= 0.1
    assert back[1, 2] >= 16


@pytest.mark.parametrize("assignments", [1, 3])
def test_a_word_lies_where_its_strongest_descriptor_does(assignments: int) -> None:
    """Descriptors come the strongest first."""
    random = np.random.default_rng(1)
    kernel = AsmkKernel(
        Codebook(random.normal(size=(6, 8)).astype(np.float32)), AsmkParameters(multiple_assignment=assignments)
    )
    descriptors = random.normal(size=(20, 8)).astype(np.float32)
    positions = np.stack([2 * np.arange(20), 100 + 2 * np.arange(20), np.ones(20)], axis=1).astype(np.float32)
    features = Features(LocalFeatures(descriptors, np.linspace(1, 0.1, 20, dtype=np.float32), positions))
    encoded = kernel.encode_query(features) if assignments > 1 else kernel.encode_database(features)
    words = kernel.codebook.assign(descriptors, assignments)
    strongest = [int(np.flatnonzero((words == word).any(axis=1))[0]) for word in encoded.words]
    assert encoded.geometry is not None
    np.testing.assert_array_equal(unpack_geometry(encoded.geometry), positions[strongest])


def test_without_positions_there_is_no_geometry() -> None:
    kernel = AsmkKernel(Codebook(np.eye(4, dtype=np.float32)), AsmkParameters())
    assert kernel.encode(np.eye(4, dtype=np.float32), 1).geometry is None
    nothing = kernel.encode(np.empty((0, 4), np.float32), 2, np.empty((0, 3), np.float32))
    assert nothing.geometry is not None
    assert nothing.geometry.shape == nothing.words.shape == (0,)
