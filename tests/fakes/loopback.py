"""HTTP servers on loopback that stand in for the services of the real clients, with faults on demand.

    with Files({"u2netp.pth": b"…"}) as server:
        isolate(monkeypatch, tmp_path, server)    # every proxy variable names the server: no request leaves
        server.fail("u2netp.pth", "drop")         # the next GET of it breaks in the middle

A server is its own proxy: it answers requests for its HOSTS, refuses all others and lists them in `refused`.
"""
import collections
import contextlib
import hashlib
import http.server
import os
import re
import socket
import ssl
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

CLIENT_VARIABLES = re.compile(r"(KAGGLE|HF|HUGGING|TRANSFORMERS|VERBOSE|XDG).*|.*_proxy", re.IGNORECASE)


def isolate(monkeypatch, tmp_path: Path, server: "Loopback") -> None:
    """Makes the environment that of a new machine, from which only `server` can be reached."""
    for name in filter(CLIENT_VARIABLES.fullmatch, tuple(os.environ)):
        monkeypatch.delenv(name)
    (tmp_path / "tmp").mkdir(exist_ok=True)
    for name in ("HOME", "HF_HOME", "KAGGLE_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    for scheme in ("http", "https", "all"):
        monkeypatch.setenv(f"{scheme}_proxy", server.url)
        monkeypatch.setenv(f"{scheme}_proxy".upper(), server.url)
    monkeypatch.setenv("no_proxy", "")


@dataclass(frozen=True)
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict
    body: bytes


class Loopback:
    """Serves the replies of `answer`, by HTTP/1.1 with ranges, with the faults that `fail` asks for."""

    HOSTS = ("127.0.0.1", "localhost")

    def __init__(self, certificate: Path | None = None):
        """`certificate`: PEM with its key, to answer https for HOSTS too."""
        self.requests, self.refused = [], []  # Requests; addresses that are not this server's
        self.sent = collections.Counter()  # bytes of each path's bodies, over all requests
        self.certificate = certificate
        self._faults = []
        self._closing = threading.Event()
        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"loopback": self}))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def __enter__(self):
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self._closing.set()
        self._http.shutdown()
        self._http.server_close()

    def answer(self, request: Request) -> Reply:
        raise NotImplementedError

    def fail(self, path: str, fault: int | str, times: int = 1, method: str = "GET") -> None:
        """The next `times` requests whose path contains `path` get the fault: a status code, or one of

        drop: the connection breaks in the middle of the body; stall: it stays open there, but sends nothing;
        truncate: half of the body, as if it were complete; html: a web page; slow: the body in pieces over a second;
        cut: the connection breaks in the middle of the request's body; lost: the request is carried out, but answered
        with 500.
        """
        self._faults += [(method, path, fault)] * times

    def take_fault(self, method: str, path: str) -> int | str | None:
        for fault in self._faults:
            if fault[0] == method and fault[1] in path:
                self._faults.remove(fault)
                return fault[2]
        return None

    def wait(self, seconds: float) -> None:
        self._closing.wait(seconds)


class Files(Loopback):
    """Plain files by name, at /<name>."""

    def __init__(self, files: dict[str, bytes], certificate: Path | None = None):
        super().__init__(certificate)
        self.files = files

    def answer(self, request):
        body = self.files.get(request.path.removeprefix("/"))
        return Reply(404) if body is None else file_reply(body)


def file_reply(body: bytes, **headers: str) -> Reply:
    return Reply(200, body, {"Accept-Ranges": "bytes", "ETag": f'"{hashlib.sha256(body).hexdigest()}"',
                             "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT", **headers})


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    loopback: Loopback

    def log_message(self, *_):
        pass

    def handle(self):
        with contextlib.suppress(ConnectionError, ssl.SSLError):  # the client may be gone; that is up to the test
            super().handle()

    def do_CONNECT(self):
        server = self.loopback
        if server.certificate is None or self.path.split(":")[0] not in server.HOSTS:
            server.refused.append(self.path)
            self.send_error(403)
            return
        self.send_response(200)
        self.end_headers()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(server.certificate)
        self.connection = context.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
        self.close_connection = False

    def serve(self):
        server, target = self.loopback, urlsplit(self.path)
        if (target.hostname or self.headers["Host"].split(":")[0]) not in server.HOSTS:
            server.refused.append(self.path)
            return self.reply(Reply(403))
        path = unquote(target.path) + (f"?{target.query}" if target.query else "")
        fault = server.take_fault(self.command, path)
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length // 2 if fault == "cut" else length)
        request = Request(self.command, path, dict(self.headers), body)
        server.requests.append(request)
        if fault == "cut":
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        if isinstance(fault, int):
            return self.reply(Reply(fault, b"fault"))
        reply = server.answer(request)
        if fault == "lost":
            reply = Reply(500, b"fault")
        if fault == "html":
            reply = Reply(200, b"<!DOCTYPE html><html><body>Quota exceeded</body></html>", reply.headers)
        if fault == "truncate":
            reply = Reply(reply.status, reply.body[:len(reply.body) // 2], reply.headers)
        self.reply(reply, fault, path)

    do_GET = do_HEAD = do_POST = do_PUT = serve

    def reply(self, reply: Reply, fault: str | None = None, path: str = "") -> None:
        body, headers = reply.body, {"Content-Length": str(len(reply.body)), **reply.headers}
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if start and reply.status == 200 and int(start[1]) < len(body):
            headers["Content-Range"] = f"bytes {start[1]}-{len(body) - 1}/{len(body)}"
            body = body[int(start[1]):]
            headers["Content-Length"] = str(len(body))
        self.send_response(206 if "Content-Range" in headers else reply.status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        pieces = [body[:len(body) // 2], body[len(body) // 2:]]
        for piece in pieces[:1] if fault in ("drop", "stall") else pieces:
            self.wfile.write(piece)
            self.loopback.sent[path] += len(piece)
            if fault == "slow":
                time.sleep(0.5)
        if fault == "stall":
            self.loopback.wait(60)
        if fault in ("drop", "stall"):
            self.close_connection = True
