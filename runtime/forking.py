"""What a forked process must make anew: locks that other threads held, and the threads themselves, are not forked."""

import os
import weakref
from typing import Protocol


class Renewable(Protocol):
    """Has state that a forked process cannot use."""

    def renew_after_fork(self) -> None:
        """Makes that state anew; called in the child, before anything else runs there."""
        ...


_LIVING: "weakref.WeakSet[Renewable]" = weakref.WeakSet()


def renew_after_fork(renewable: Renewable) -> None:
    """Has an object told in every process that is forked from this one."""
    _LIVING.add(renewable)


def _renew_all() -> None:
    for renewable in list(_LIVING):
        renewable.renew_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
