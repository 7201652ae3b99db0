"""asmk's io_helpers, as loops around asmk call them."""

import numpy as np
import pytest

from runtime.asmk_method import io_helpers
from runtime.errors import UsageError


def test_slices_are_those_of_the_rows_of_each_id() -> None:
    ids = np.array([3, 3, 1_700_000_000, 1_700_000_000, 1_700_000_000, 2**63 - 1])
    slices = dict(io_helpers.slice_unique(ids))
    assert slices == {3: slice(0, 2), 1_700_000_000: slice(2, 5), 2**63 - 1: slice(5, 6)}
    assert list(io_helpers.slice_unique(ids[:0])) == []


@pytest.mark.parametrize("dtype", [np.int64, np.uint8])
def test_ids_that_have_no_slices_are_refused(dtype: type) -> None:
    with pytest.raises(UsageError, match="sort the rows by image"):
        list(io_helpers.slice_unique(np.array([1, 0, 1], dtype)))


def test_progress_gives_the_items_and_is_silent_when_asked_to(capfd: pytest.CaptureFixture) -> None:
    assert list(io_helpers.progress(iter("abc"), size=3, frequency=None, header="Query")) == ["a", "b", "c"]
    assert capfd.readouterr().err == ""
    assert list(io_helpers.progress("abc", header="Query")) == ["a", "b", "c"]
    assert "Query" in capfd.readouterr().err
