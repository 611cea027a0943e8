"""Who may ask: only pages that this server has given out, from its own origin, with the session's token.

A browser on this machine is given the token with the page; one from elsewhere must bring it. Requests that a page of
another origin sends, or that arrive under another host's name (DNS rebinding), are refused.
"""

import hmac
from urllib.parse import urlsplit

from flask import Flask, abort, redirect, request
from werkzeug.wrappers import Response

LOCAL = ("127.0.0.1", "localhost", "::1", "[::1]")


class Guard:
    """What stands before every request.

    Args:
        token: the session's.
        host: the address that is served.
        port: likewise.
        is_open: whether the page is given out to whoever reaches it, as on this machine alone.
    """

    def __init__(self, token: str, host: str, port: int, *, is_open: bool) -> None:
        self.token, self.host, self.is_open = token, host, is_open
        self.cookie = f"graphprune-{port}"

    def protect(self, server: Flask) -> None:
        server.before_request(self.check)
        server.after_request(self.sign)

    def check(self) -> Response | None:
        """Refuses what may not be asked; a link that brings the token is turned into one without it."""
        if self.is_open and (urlsplit(f"//{request.host}").hostname or "") not in LOCAL:
            abort(403, "this server answers to its own name only")
        if not self._from_here():
            abort(403, "this request comes from another page")
        if (brought := request.args.get("token")) is not None:
            if not hmac.compare_digest(brought.encode(), self.token.encode()):
                abort(403, "that token is not this session's")
            kept = "&".join(part for part in request.query_string.decode().split("&") if not part.startswith("token="))
            answer = redirect(request.path + (f"?{kept}" if kept else ""))
            self._give(answer)
            return answer
        needs = request.method not in {"GET", "HEAD"} or not self.is_open
        if needs and not self._knows():
            abort(403, "open the link that was printed when the explorer started: it brings the session's token")
        return None

    def sign(self, answer: Response) -> Response:
        if self.is_open and request.path == "/" and not self._knows():
            self._give(answer)
        answer.headers["X-Content-Type-Options"] = "nosniff"
        answer.headers["X-Frame-Options"] = "DENY"
        answer.headers["Referrer-Policy"] = "same-origin"
        return answer

    def _from_here(self) -> bool:
        """Whether what sent the request is a page of this server, as far as a browser tells."""
        if request.headers.get("Sec-Fetch-Site", "same-origin") in {"cross-site", "same-site"}:
            return request.method == "GET" and request.headers.get("Sec-Fetch-Mode") == "navigate"
        origin = request.headers.get("Origin")
        return origin is None or urlsplit(origin).netloc == request.host

    def _knows(self) -> bool:
        return hmac.compare_digest(request.cookies.get(self.cookie, "").encode(), self.token.encode())

    def _give(self, answer: Response) -> None:
        answer.set_cookie(self.cookie, self.token, httponly=True, samesite="Strict")
