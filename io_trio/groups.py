"""Nurseries raise groups of exceptions; callers and people want the one that happened first."""

from typing import TypeVar

_E = TypeVar("_E", bound=BaseException)


def first_error(group: BaseExceptionGroup[_E]) -> _E:
    """Return the first exception in a group, however deep it lies."""
    found = group.exceptions[0]
    return first_error(found) if isinstance(found, BaseExceptionGroup) else found
