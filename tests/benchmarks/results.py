"""Results of long benchmarks, one JSON line each: what has been measured isn't measured again."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Results:
    """A file of results.

    Attributes:
        path: where they are.
        setting: what all results of this run have in common.
        lines: all that is there.
    """

    path: Path
    setting: Mapping[str, Any]
    lines: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path, setting: Mapping[str, Any]) -> "Results":
        lines = path.read_text().splitlines() if path.is_file() else []
        return cls(path, setting, [json.loads(line) for line in lines])

    def of(self, key: Mapping[str, Any], measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The result with a key: what is there, or what is measured now and noted."""
        wanted = {**self.setting, **key}
        for line in self.lines:
            if wanted.items() <= line.items():
                return line
        found = wanted | measure()
        with self.path.open("a") as file:
            file.write(json.dumps(found) + "\n")
        self.lines.append(found)
        print(json.dumps(found), flush=True)
        return found
