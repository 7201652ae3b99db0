"""Attributes that are computed when they are first asked for."""

from runtime.lazy import lazy_property


class Counted:
    def __init__(self) -> None:
        self.calls = 0

    @lazy_property
    def value(self) -> int:
        """What it is."""
        self.calls += 1
        return 7


def test_it_is_computed_once_for_each_object_when_it_is_asked_for() -> None:
    first, second = Counted(), Counted()
    assert first.calls == 0
    assert first.value + first.value == 14
    assert (first.calls, second.calls) == (1, 0)
    assert second.value == 7
    assert Counted.value.__doc__ == "What it is."
