"""How the server ends."""

from threading import Event, Thread

import pytest

from graphprune.explorer.server import Underway


def test_the_end_waits_for_what_is_being_answered_but_not_for_ever() -> None:
    begun, may_end, ended = Event(), Event(), Event()

    def slow(*_: object) -> list[bytes]:
        begun.set()
        may_end.wait(60)
        ended.set()
        return [b"done"]

    underway = Underway(slow)
    thread = Thread(target=underway, args=({}, None))
    thread.start()
    begun.wait(60)
    underway.wait(0.01)
    assert not ended.is_set()
    may_end.set()
    underway.wait(60.0)
    assert ended.is_set()
    thread.join()


def test_an_answer_that_fails_is_not_waited_for() -> None:
    def broken(*_: object) -> list[bytes]:
        raise ValueError("broken")

    underway = Underway(broken)
    with pytest.raises(ValueError, match="broken"):
        underway()
    underway.wait(60.0)
    assert underway.requests == 0
