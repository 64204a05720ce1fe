"""`release push` against a stand-in for the hub on this machine.

The stand-in answers the calls that huggingface_hub makes for a small upload and keeps what
arrives. It is no proof of how huggingface.co itself answers.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ggsurgery.errors import FormatError
from ggsurgery.release.bundle import build_bundle
from ggsurgery.release.push import PushError, push
from ggsurgery.release.request import Request
from tests._needs import needs_package
from tests._shapes import BYTES, small, write_shapes


class Hub(ThreadingHTTPServer):
    """Keeps repositories and their files in memory."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.private: bool | None = None
        self.refuse = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""

    def answer(self, code: int, body: Any) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        if code == 401:
            self.send_header("X-Error-Message", body["error"])
        self.end_headers()
        self.wfile.write(data)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline(), 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def do_GET(self) -> None:
        if self.server.refuse:
            self.answer(401, {"error": "Invalid token"})
            return
        self.answer(200, {"id": "me/tiny", "sha": "0" * 40, "siblings": [], "name": "me"})

    def do_POST(self) -> None:
        data = self.body()
        if self.server.refuse:
            self.answer(401, {"error": "Invalid token"})
        elif self.path.endswith("/repos/create"):
            asked = json.loads(data)  # older versions of the library say it the first way
            self.server.private = asked.get("private", asked.get("visibility") == "private")
            self.answer(200, {"url": f"{self.server.url}/me/tiny", "name": "me/tiny"})
        elif "/preupload/" in self.path:
            names = [f["path"] for f in json.loads(data)["files"]]
            listed = [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]
            self.answer(200, {"files": listed})
        elif "/commit/" in self.path:
            for line in data.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    content = base64.b64decode(entry["value"]["content"])
                    self.server.files[entry["value"]["path"]] = content
            url = f"{self.server.url}/me/tiny/commit/{'1' * 40}"
            self.answer(200, {"commitUrl": url, "commitOid": "1" * 40, "success": True})
        else:
            self.answer(200, {})


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    needs_package("huggingface_hub", extra="hub")
    source = write_shapes(tmp_path / "s.gguf", small("Tiny", 1), tokens=BYTES, seed=5)
    return build_bundle(Request((source,)), tmp_path / "bundle").folder


def test_every_file_arrives_as_it_is(hub: Hub, bundle: Path) -> None:
    done = push(bundle, "me/tiny", endpoint=hub.url, token="hf_stand_in")
    assert hub.private is True
    assert done.repo == "me/tiny"
    there = {p.name: p.read_bytes() for p in bundle.iterdir()}
    assert hub.files == there
    assert set(done.files) == there.keys()


def test_a_damaged_bundle_is_not_sent(hub: Hub, bundle: Path) -> None:
    (bundle / "Modelfile").write_text("FROM ./other.gguf\n", encoding="utf-8")
    with pytest.raises(FormatError, match="Modelfile"):
        push(bundle, "me/tiny", endpoint=hub.url, token="hf_stand_in")
    assert not hub.files


def test_refusals_and_silence_are_one_line(hub: Hub, bundle: Path) -> None:
    hub.refuse = True
    with pytest.raises(PushError, match="the hub refuses"):
        push(bundle, "me/tiny", endpoint=hub.url, token="hf_stand_in")
    with pytest.raises(PushError, match="the hub refuses"):
        push(bundle, "not a name!", endpoint=hub.url, token="hf_stand_in")
    hub.shutdown()
    hub.server_close()
    with pytest.raises(PushError, match="cannot be reached"):
        push(bundle, "me/tiny", endpoint=hub.url, token="hf_stand_in")
