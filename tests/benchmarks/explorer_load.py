"""Many people in the explorer at once: how long answers take, whether any fails, whether the server's memory grows.

python -m tests.benchmarks.explorer_load RUN [--users 20] [--seconds 60] [--think 1]

The server is a process of its own, as people start it. A user opens a page, as a browser does, then asks for all that
is on it in a state that differs each time (score, unit, sparsity), one request after the other, thinks for a while,
and goes on to another page. Latencies are of single requests, over the network stack; sizes are of answers as they
are sent. Memory is what is resident and not mapped from a file, of the server and its children: when every page has
been seen once, and after every quarter of the time.
"""

import argparse
import json
import threading
import time
from dataclasses import dataclass, field
from http.cookiejar import CookieJar
from pathlib import Path
from statistics import median, quantiles
from typing import Any
from urllib.error import HTTPError
from urllib.request import HTTPCookieProcessor, OpenerDirector, Request, build_opener

import numpy as np
import psutil

from graphprune.explorer.data import RunData
from graphprune.explorer.state import VIEWS, State
from graphprune.explorer.views import PAGES
from tests.app.conftest import served

URL = {"id": "url", "property": "search"}
LIMIT = 1e6  # bytes that an answer may have


@dataclass
class User:
    """One browser without a screen: cookies of its own, and the callbacks that the page told it of."""

    address: str
    callbacks: dict[str, str] = field(default_factory=dict)
    seconds: list[tuple[float, str]] = field(default_factory=list)
    largest: tuple[int, str] = (0, "")
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.opener: OpenerDirector = build_opener(HTTPCookieProcessor(CookieJar()))
        self._ask("the page", "")
        self._ask("the layout", "_dash-layout")
        told = json.loads(self._ask("the callbacks", "_dash-dependencies"))
        for part in ("figure", "text"):
            start = f'{{"name":["MATCH"],"part":"{part}"}}.'
            self.callbacks[part] = next(each["output"] for each in told if each["output"].lstrip(".").startswith(start))

    def see(self, state: State) -> None:
        """Asks for all that a page shows."""
        page = PAGES[state.view]
        for name in page.FIGURES:
            self._callback("figure", name, ("figure", "title", "subtitle"), state)
        for name in page.TEXTS:
            self._callback("text", name, ("text",), state)

    def _callback(self, part: str, name: str, parts: tuple[str, ...], state: State) -> None:
        outputs = [
            {"id": {"part": each, "name": name}, "property": "figure" if each == "figure" else "children"}
            for each in parts
        ]
        which = {"part": part, "name": name}
        body = {
            "output": self.callbacks[part],
            "outputs": outputs[0] if len(outputs) == 1 else outputs,
            "inputs": [{**URL, "value": state.query()}],
            "changedPropIds": ["url.search"],
            "state": [{"id": which, "property": "id", "value": which}],
        }
        self._ask(f"{state.view}: {name}", "_dash-update-component", body)

    def _ask(self, what: str, path: str, body: dict[str, Any] | None = None) -> bytes:
        sent = None if body is None else json.dumps(body).encode()
        asked = Request(self.address + path, sent, {"Content-Type": "application/json"})  # noqa: S310 - our own server
        start = time.perf_counter()
        try:
            with self.opener.open(asked, timeout=120) as answer:
                content: bytes = answer.read()
        except (HTTPError, OSError) as error:
            self.failures.append(f"{what}: {error}")
            return b"[]"
        self.seconds.append((time.perf_counter() - start, what))
        self.largest = max(self.largest, (len(content), what))
        return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--users", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--think", type=float, default=1.0, help="seconds between two pages")
    args = parser.parse_args()
    data = RunData(args.run.absolute())
    with served(data.folder) as address:
        (server,) = psutil.Process().children()
        first = User(address)
        start = time.perf_counter()
        for view in VIEWS:
            first.see(_state(data, np.random.default_rng(0), view))
        print(f"every page once, when nothing has been read yet: {time.perf_counter() - start:.1f} s")
        users = [User(address) for _ in range(args.users)]
        end = time.perf_counter() + args.seconds
        threads = [
            threading.Thread(target=_use, args=(user, data, seed, end, args.think)) for seed, user in enumerate(users)
        ]
        for thread in threads:
            thread.start()
        memory = [_megabytes(server)]
        for _ in range(4):
            time.sleep(args.seconds / 4)
            memory.append(_megabytes(server))
        for thread in threads:
            thread.join()
    _report(args, users, memory)


def _use(user: User, data: RunData, seed: int, end: float, think: float) -> None:
    generator = np.random.default_rng(seed)
    while time.perf_counter() < end:
        user.see(_state(data, generator, str(generator.choice(VIEWS))))
        time.sleep(think)


def _state(data: RunData, generator: np.random.Generator, view: str) -> State:
    """A page as somebody may have set it."""
    n_layers = data.manifest()["model"]["n_layers"]
    unit = f"neuron.{generator.integers(n_layers)}.{generator.integers(100)}"
    score, against = generator.choice(data.scores_there(), 2, replace=False).tolist()
    mask = str(generator.choice(["", *data.masks_there()]))
    return State(view, score, against, mask, unit=unit, sparsity=int(generator.integers(5, 60)) / 100)


def _megabytes(server: psutil.Process) -> float:
    """Of a process and its children, resident and not mapped from a file."""
    found = [each.memory_info() for each in (server, *server.children(recursive=True))]
    return float(sum(each.rss - each.shared for each in found)) / 1e6


def _report(args: argparse.Namespace, users: list[User], memory: list[float]) -> None:
    answers = [each for user in users for each in user.seconds]
    seconds = [each for each, _ in answers]
    failures = [each for user in users for each in user.failures]
    size, what = max(user.largest for user in users)
    cuts = quantiles(seconds, n=100)
    print(f"{args.users} users for {args.seconds:.0f} s: {len(seconds)} requests, {len(failures)} failures")
    print(f"latency: median {1000 * median(seconds):.0f} ms, 95th percentile {1000 * cuts[94]:.0f} ms, "
          f"slowest {1000 * max(seconds):.0f} ms")  # fmt: skip
    kinds = {what: median(each for each, name in answers if name == what) for what in {name for _, name in answers}}
    longest = sorted(kinds.items(), key=lambda each: -each[1])[:5]
    print(f"slowest at the median: {', '.join(f'{what} {1000 * each:.0f} ms' for what, each in longest)}")
    print(f"largest answer: {size / 1e3:.0f} kB ({what}); {'within' if size <= LIMIT else 'ABOVE'} 1 MB")
    print(f"memory of the server, every quarter: {', '.join(f'{each:.0f}' for each in memory)} MB")
    for each in failures[:10]:
        print(f"failed: {each}")


if __name__ == "__main__":
    main()
