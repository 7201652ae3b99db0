"""Around every request: who may call, the headers of every answer, a line in the log, and a count."""

import hmac
import logging
import time
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from runtime.errors import HowlError
from runtime.service.metrics import Metrics
from runtime.service.options import ServiceOptions
from runtime.service.refusals import CLOSED, INSIDE, OUTCOME, RefusedError, answer_to

MAX_LOGGED = 200  # characters of a path
NOTHING = "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
HEADERS = {  # of every answer; those that it has itself stay
    "Content-Security-Policy": NOTHING,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
QUIET = frozenset({"/healthz", "/readyz", "/metrics"})  # asked every few seconds: logged only when they fail

logger = logging.getLogger("howl.serve")


class Guard:
    """The outermost layer of the application (ASGI)."""

    def __init__(self, app: ASGIApp, options: ServiceOptions, metrics: Metrics) -> None:
        self._app, self._options, self._metrics = app, options, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            check_names(Headers(scope=scope), scope["method"], self._options.hosts)
            await self._app(scope, receive, answer)
        except HowlError as error:
            scope[OUTCOME] = str(error)
            await answer_to(error, "")(scope, receive, answer)
        except Exception as error:
            scope[OUTCOME] = f"a fault of howl's: {type(error).__name__}"
            logger.exception("a fault of howl's")
            if not status:
                fault = {"error": HowlError.__name__, "detail": "a fault of the server's; its log says more"}
                await JSONResponse(fault, INSIDE)(scope, receive, answer)
        finally:
            self._note(scope, status or CLOSED, time.perf_counter() - begin)

    def _note(self, scope: Scope, status: int, seconds: float) -> None:
        """One line for the log, and a count. A path is logged as it was sent: in ASCII, escaped."""
        route = scope.get("route")
        self._metrics.answered(getattr(route, "path", "other"), status, seconds)
        if status < 400 and scope["path"] in QUIET:
            return
        path = scope.get("raw_path", b"").decode("ascii", "backslashreplace")[:MAX_LOGGED]
        path = "".join(letter if letter.isprintable() else "?" for letter in path)
        caller = (scope.get("client") or ("-",))[0]
        level = logging.ERROR if status >= INSIDE and status != 503 else logging.INFO
        outcome = f": {scope[OUTCOME]}" if OUTCOME in scope else ""
        logger.log(level, "%s %s %s %d %.0f ms%s", caller, scope["method"], path, status, 1e3 * seconds, outcome)


def check_names(headers: Headers, method: str, hosts: frozenset[str] | None) -> None:
    """Refuses requests that a web page elsewhere has made its visitor's browser send.

    Args:
        headers: of the request.
        method: of HTTP.
        hosts: by which the server may be called; None for any.

    Raises:
        RefusedError: the server is called by another name (421), or a page of another one sends something (403).
    """
    host = headers.get("host", "")
    if hosts is not None and hostname(host) not in hosts:
        raise RefusedError(
            421, f"this server is not called {host[:MAX_LOGGED]}; --allow-host names other names of its own"
        )
    if method in ("GET", "HEAD"):
        return
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is None:  # an old browser, or a program
        site = "none" if origin is None or urlsplit(origin).netloc == host else "cross-site"
    if site not in ("same-origin", "none"):
        raise RefusedError(403, "a page of another site must not send this")


def hostname(host: str) -> str:
    """The name in HTTP's Host, without the port and the brackets of IPv6."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""


class Doors:
    """Who may read and who may write, as dependencies of routes."""

    def __init__(self, options: ServiceOptions) -> None:
        self._options = options

    async def reader(self, request: Request) -> None:
        """Raises RefusedError (401) if readers need a token and the request has none."""
        if self._options.is_private:
            self._check_token(request)

    async def writer(self, request: Request) -> None:
        """Raises RefusedError if photos cannot be added or removed here (403), or only with a token (401)."""
        if not self._options.may_write:
            raise RefusedError(403, "nobody can add or remove photos here; --token-file lets those who have a token")
        if self._options.token is not None:
            self._check_token(request)

    def _check_token(self, request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        expected = (self._options.token or "").encode()
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), expected):
            raise RefusedError(
                401, "needs a token: Authorization: Bearer …", {"WWW-Authenticate": 'Bearer realm="howl"'}
            )


def quiet_logs() -> dict[str, Any]:
    """Logging's configuration for a server: a line for each request and fault on stderr, uvicorn's only if it warns."""
    line = {"format": "%(asctime)s %(levelname)s %(message)s"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": line},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
        "loggers": {
            "howl": {"handlers": ["stderr"], "level": "INFO", "propagate": False},
            "uvicorn": {"handlers": ["stderr"], "level": "WARNING", "propagate": False},
        },
    }
