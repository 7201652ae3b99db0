"""Turns: how many work at a time, and who clears up."""

import threading
from contextlib import suppress

import pytest

from runtime.engine.turns import Turns

from ..rush import PATIENCE, Room


@pytest.mark.parametrize("places", [1, 2, 4])
def test_so_many_threads_work_at_a_time_and_no_more(places: int) -> None:
    turns, room = Turns(places), Room(places)

    def work() -> None:
        with turns.turn():
            room.enter()

    room.assert_bounds(work)


def test_a_turn_ends_with_an_exception() -> None:
    turns = Turns(1)
    for _ in range(3):
        with pytest.raises(ValueError, match="at work"), turns.turn():
            raise ValueError("at work")


def two_at_once(turns: Turns, *, failing: bool = False) -> None:
    """One thread works while another waits or works, too."""
    both = threading.Barrier(2, timeout=PATIENCE)

    def work() -> None:
        with suppress(ValueError), turns.turn():
            both.wait()
            if failing:
                raise ValueError

    other = threading.Thread(target=work)
    other.start()
    work()
    other.join()


@pytest.mark.parametrize("failing", [False, True])
def test_the_last_of_several_clears_up(failing: bool) -> None:
    cleared: list[int] = []
    turns = Turns(2, lambda: cleared.append(1), clear_seconds=0)
    for rush in range(1, 4):
        two_at_once(turns, failing=failing)
        assert len(cleared) == rush


def test_nobody_clears_up_after_a_single_caller() -> None:
    cleared: list[int] = []
    turns = Turns(2, lambda: cleared.append(1), clear_seconds=0)
    for _ in range(3):
        with turns.turn():
            pass
    assert not cleared


def test_after_clearing_up_there_is_a_pause() -> None:
    cleared: list[int] = []
    turns = Turns(2, lambda: cleared.append(1), clear_seconds=3600)
    for _ in range(3):
        two_at_once(turns)
    assert len(cleared) == 1
