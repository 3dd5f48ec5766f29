"""A stand-in for the Hugging Face hub: the few endpoints that one upload and one download use, kept in memory.

It is no proof that the real hub accepts what is sent; it shows that the real client library sends the folder's files,
and that what it gets back is a policy.
"""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

COMMIT = "a" * 40


class FakeHub(ThreadingHTTPServer):
    """``files``: path in the repository -> bytes; ``requests``: what was asked, in order; ``private``: visibility."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.requests: list[str] = []
        self.created: dict[str, Any] = {}
        self.private = True
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@contextmanager
def running() -> Iterator[FakeHub]:
    hub = FakeHub()
    thread = Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append(f"POST {self.path}")
        if self.path == "/api/repos/create":
            self.server.created = json.loads(body) | {"organization": "me"}
            self._json(
                {"url": f"{self.server.url}/{self.server.created['organization']}/{self.server.created['name']}"}
            )
        elif "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            self._json({"files": [{"path": p, "uploadMode": "regular", "shouldIgnore": False} for p in paths]})
        elif "/commit/" in self.path:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    self.server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            self._json({"commitUrl": f"{self.server.url}/me/policy/commit/{COMMIT}", "commitOid": COMMIT})
        else:
            self._json({})

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, body: bool) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        path = self.path.split("?")[0]
        name = re.sub(r"^/[^/]+/[^/]+/resolve/[^/]+/", "", path)
        if "/resolve/" in path and name in self.server.files:
            data = self.server.files[name]
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)
        elif "/tree/" in path:
            self._json([{"type": "file", "path": p, "size": len(d), "oid": "0"} for p, d in self.server.files.items()])
        elif path.startswith("/api/models/"):
            siblings = [{"rfilename": p} for p in self.server.files]
            self._json({"id": "me/policy", "sha": COMMIT, "private": self.server.private, "siblings": siblings})
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()

    def _json(self, data: Any) -> None:
        text = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
