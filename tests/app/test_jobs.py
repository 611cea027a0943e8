"""Commands that are run beside the server."""

import pytest

from graphprune.core.errors import GraphpruneError
from graphprune.explorer.jobs import BAR, run_command


def test_a_command_that_fails_says_its_own_sentence() -> None:
    said: list[str] = []
    with pytest.raises(GraphpruneError, match="nowhere is neither a folder"):
        run_command(["export", "nowhere", "-o", "nothing"], lambda _, what: said.append(what))
    assert said == ["starting export"]


def test_the_last_bar_says_how_far_it_is_and_what_is_left() -> None:
    terminal = "\rblocks:  10%|#   | 3/30 [00:02<00:18]\rblocks:  50%|##  | 15/30 [00:10<00:09,  1.5it/s]"
    assert BAR.findall(terminal)[-1] == ("blocks", "50", "00:09")
