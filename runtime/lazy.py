"""Attributes that are computed when they are first asked for."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

T = TypeVar("T")


class lazy_property(Generic[T]):  # noqa: N801, named as what it decorates
    """``functools.cached_property`` without the lock that Python 3.11 still has there.

    A process that is forked while another thread computes the value could never take that lock. Without it, two threads
    may compute the value, and one of the two equal results stays.
    """

    def __init__(self, compute: Callable[[Any], T]) -> None:
        self.compute = compute
        self.__doc__ = compute.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type) -> "lazy_property[T]": ...
    @overload
    def __get__(self, instance: object, owner: type) -> T: ...
    def __get__(self, instance: object | None, owner: type) -> "lazy_property[T] | T":
        if instance is None:
            return self
        value = self.compute(instance)
        instance.__dict__[self.name] = value  # from now on found there, before this descriptor
        return value
