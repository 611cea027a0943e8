"""What is worked out once: an answer is kept by what it was made of, and many who ask at a time wait for the first."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import lru_cache, wraps
from threading import Lock
from typing import Any, Generic, TypeVar, cast

STRIPES = 64
T = TypeVar("T")
Called = TypeVar("Called", bound=Callable[..., Any])


@dataclass(frozen=True)
class Made(Generic[T]):
    """A thing that equals every other that was made of the same.

    Attributes:
        of: what tells it from others, such as files and when they were written.
        value: the thing.
    """

    of: Hashable
    value: T = field(compare=False)


def once(maxsize: int) -> Callable[[Called], Called]:
    """A function whose last answers are kept.

    Not for what a background job calls: a job is forked from the server, and may be while somebody waits.
    """

    def decorated(function: Called) -> Called:
        kept, locks = lru_cache(maxsize)(function), [Lock() for _ in range(STRIPES)]

        @wraps(function)
        def call(*arguments: Hashable) -> Any:
            with locks[hash(arguments) % STRIPES]:  # who asks for something else doesn't wait
                return kept(*arguments)

        return cast("Called", call)

    return decorated
