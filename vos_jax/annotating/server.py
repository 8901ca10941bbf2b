"""The annotation page over HTTP, for the browser of this machine alone.

Bound to 127.0.0.1. Every address begins with a token that only the printed link has; Host, and the
Origin of whatever changes something, must be this server's, so no other page can reach it. A client
names frames by their numbers, never a path; bodies have a limit, and masks go through the reader of
all masks.
"""

import io
import json
import secrets
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources

from PIL import Image

from vos_jax.annotating.session import Busy, Session
from vos_jax.data.masks import davis_palette

HOST = "127.0.0.1"
PAGE = {
    "": ("page.html", "text/html; charset=utf-8"),
    "page.js": ("page.js", "text/javascript; charset=utf-8"),
    "page.css": ("page.css", "text/css; charset=utf-8"),
}
SECURITY = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
PNG_OVERHEAD = 1 << 16


class Refused(Exception):
    """An answer other than OK: status and what to say."""

    def __init__(self, status: HTTPStatus, why: str):
        super().__init__(why)
        self.status = status


class AnnotationServer(ThreadingHTTPServer):
    """Serves one session; `url` is the link with the token. port 0: any that is free."""

    daemon_threads = True

    def __init__(self, session: Session, port: int = 0):
        self.session, self.token = session, secrets.token_urlsafe(24)
        super().__init__((HOST, port), _Handler)
        self.port = self.server_address[1]
        self.url = f"http://{HOST}:{self.port}/{self.token}/"


class _Handler(BaseHTTPRequestHandler):
    server: AnnotationServer
    server_version, sys_version = "vos_jax", ""
    timeout = 30  # seconds for a client that says nothing

    def do_GET(self) -> None:
        self._answer("GET")

    def do_PUT(self) -> None:
        self._answer("PUT")

    def do_POST(self) -> None:
        self._answer("POST")

    def do_DELETE(self) -> None:
        self._answer("DELETE")

    def log_message(self, *_) -> None:
        """The terminal is for errors that users can mend."""

    def _answer(self, method: str) -> None:
        try:
            content, kind = self._route(method, self._words(method))
            self._send(HTTPStatus.OK, content, kind)
        except Refused as refused:
            self._say(refused.status, str(refused))
        except Busy as busy:
            self._say(HTTPStatus.CONFLICT, str(busy))
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except (ValueError, OSError) as error:
            self._say(HTTPStatus.UNPROCESSABLE_ENTITY, str(error))

    def _words(self, method: str) -> list[str]:
        """The address after the token, in parts, once the request is known to be the page's."""
        hosts = [f"{name}:{self.server.port}" for name in (HOST, "localhost")]
        host, origin = self.headers.get("Host"), self.headers.get("Origin")
        if host not in hosts:
            raise Refused(HTTPStatus.FORBIDDEN, "not addressed to this server")
        if (origin is not None or method != "GET") and origin != f"http://{host}":
            raise Refused(HTTPStatus.FORBIDDEN, "only the annotation page may ask for this")
        empty, token, *words = (self.path.partition("?")[0]).split("/") + [""]
        if empty or not secrets.compare_digest(token.encode(), self.server.token.encode()):
            raise Refused(HTTPStatus.FORBIDDEN, "open the link that the terminal shows")
        return words[:-1]

    def _route(self, method: str, words: list[str]) -> tuple[bytes, str]:
        session = self.server.session
        match method, words:
            case "GET", [name] if name in PAGE:
                file, kind = PAGE[name]
                return (resources.files(__package__) / "page" / file).read_bytes(), kind
            case "GET", ["state"]:
                pass
            case "GET", ["palette"]:
                return davis_palette().tobytes(), "application/octet-stream"
            case "GET", ["frame", number]:
                buffer = io.BytesIO()
                Image.fromarray(session.frame(self._index(number))).save(buffer, "JPEG", quality=92)
                return buffer.getvalue(), "image/jpeg"
            case "GET", ["mask", number]:
                return session.mask(self._index(number)).tobytes(), "application/octet-stream"
            case "PUT", ["mask", number]:
                session.draw(self._index(number), self._body())
            case "DELETE", ["mask", number]:
                session.remove(self._index(number))
            case "POST", ["propagate", number]:
                session.propagate(self._index(number))
            case "POST", ["release", number]:
                session.release(self._index(number))
            case "POST", ["stop"]:
                session.stop()
            case _:
                raise Refused(HTTPStatus.NOT_FOUND, "there is nothing at this address")
        return json.dumps(session.state()).encode(), "application/json"

    def _index(self, number: str) -> int:
        if not (number.isascii() and number.isdecimal() and len(number) < 10):
            raise Refused(HTTPStatus.NOT_FOUND, "expected the number of a frame")
        if int(number) >= len(self.server.session):
            raise Refused(HTTPStatus.NOT_FOUND, f"there is no frame {int(number)}")
        return int(number)

    def _body(self) -> bytes:
        height, width = self.server.session.size
        most, length = height * width * 4 + PNG_OVERHEAD, self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()):
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
        if len(length) > 12 or int(length) > most:
            raise Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"expected up to {most} bytes")
        body = self.rfile.read(int(length))
        if len(body) != int(length):
            raise ConnectionError("the client left")
        return body

    def _say(self, status: HTTPStatus, why: str) -> None:
        self._send(status, json.dumps({"error": why}).encode(), "application/json")

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        try:
            self.send_response(status)
            for name, value in {**SECURITY, "Content-Type": kind}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)
        except (ConnectionError, TimeoutError):
            self.close_connection = True
