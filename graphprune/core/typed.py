"""Whether a value that a file or a command line gave is of a type."""

from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin


def parts(hint: Any) -> tuple[Any, ...]:
    """The types of a union; a type that is none alone."""
    return get_args(hint) if get_origin(hint) in {Union, UnionType} else (hint,)


def fits(hint: Any, value: object) -> bool:
    """Whether a value that JSON or TOML can express is of a type; a whole number may stand for a float.

    >>> fits(float | None, 1), fits(int, 1.0), fits(Literal["a", "b"], "c")
    (True, False, False)
    """
    if len(parts(hint)) > 1:
        return any(fits(part, value) for part in parts(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if hint is float:
        return type(value) in {int, float}
    return type(value) is hint


def choices(hint: Any) -> tuple[str, ...]:
    """The values there are to choose from, if they are few."""
    return tuple(str(name) for part in parts(hint) if get_origin(part) is Literal for name in get_args(part))


def converted(hint: Any, value: Any) -> Any:
    """A value that fits a type, a whole number as the float that it may stand for."""
    of = parts(hint)
    return float(value) if type(value) is int and float in of and int not in of else value
