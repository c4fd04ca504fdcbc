"""A page that is there at once, and gives way to the studio when that has been loaded."""

from __future__ import annotations

__all__ = ["Waiting"]

import contextlib
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from ..errors import InputError

FIRST, MANY = 7860, 100  # ports that are tried
PAGE = b"""<!doctype html><html lang="en"><meta charset="utf-8"><title>latentctl studio</title>
<meta name="viewport" content="width=device-width"><style>
body { font: 17px/1.5 system-ui, sans-serif; background: #f5f6f9; color: #1d2433; margin: 18vh auto;
  max-width: 30rem; padding: 0 1rem; } h1 { font-size: 1.6rem; margin: 0; } p { color: #566072; }
progress { width: 100%; accent-color: #2f5bd0; }</style>
<h1>latentctl studio</h1><p role="status">The generator and its controls are being loaded.</p>
<progress aria-label="Loading"></progress><script>
setInterval(() => fetch("/", {cache: "no-store"}).then((answer) => {
  if (answer.ok && !answer.headers.has("X-Waiting")) location.reload();
}).catch(() => {}), 300);</script></html>"""


class Waiting:
    """Serves a waiting page on 127.0.0.1 until `close`.

    Arguments:
        port: The port; a free one from 7860 on if not given.

    Raises:
        InputError: If the port is taken.
    """

    def __init__(self, port: int | None = None) -> None:
        self.server = _server(port)
        self.port: int = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def address(self) -> str:
        """Where the page is, and the studio will be."""
        return f"http://127.0.0.1:{self.port}/"

    def close(self) -> None:
        """Frees the port."""
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        with contextlib.suppress(ConnectionError):  # the browser asked again meanwhile
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(PAGE)))
            self.send_header("X-Waiting", "1")
            self.end_headers()
            self.wfile.write(PAGE)

    def log_message(self, format: str, *args: object) -> None:
        """Says nothing."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    address_family = socket.AF_INET


def _server(port: int | None) -> _Server:
    for number in [port] if port is not None else range(FIRST, FIRST + MANY):
        try:
            return _Server(("127.0.0.1", number), _Handler)
        except OSError:
            continue
    taken = f"Port {port} is" if port is not None else f"The ports {FIRST} to {FIRST + MANY} are"
    raise InputError(f"{taken} taken. Pass --port with a free one.")
