"""Models by name: a store laid out as Ollama lays it out, and a stand-in for the hub."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ggsurgery.errors import InputError
from ggsurgery.files.model_names import is_model_name, model_file

from .._command import call, run
from .._needs import ROOT, needs_package

MODEL = ROOT / "models/tiny-qwen3/tiny-qwen3.gguf"
MODEL_LAYER = "application/vnd.ollama.image.model"


def manifest(*digests: str, kind: str = MODEL_LAYER) -> str:
    template = {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:0"}
    layers = [{"mediaType": kind, "digest": digest} for digest in digests]
    return json.dumps({"schemaVersion": 2, "layers": [template, *layers]})


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with tiny-qwen3 as tiny:latest, tiny:f16 and me/tiny:latest."""
    data = MODEL.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    blob = tmp_path / "models" / "blobs" / f"sha256-{digest}"
    blob.parent.mkdir(parents=True)
    blob.write_bytes(data)
    root = blob.parents[1] / "manifests" / "registry.ollama.ai"
    for name in ("library/tiny/latest", "library/tiny/f16", "me/tiny/latest"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(manifest(f"sha256:{digest}"))
    monkeypatch.setenv("OLLAMA_MODELS", str(blob.parents[1]))
    return blob


@pytest.mark.parametrize(
    "name",
    (
        "ollama://tiny",
        "ollama://tiny:f16",
        "ollama://library/tiny:latest",
        "ollama://me/tiny",
        "ollama://registry.ollama.ai/me/tiny:latest",
    ),
)
def test_ollama_names_are_blobs(store, name):
    assert model_file(name) == store


def test_a_command_reads_a_model_of_ollamas(store, tmp_path):
    out = tmp_path / "out.gguf"
    call("delete", "--layer", "5", "ollama://tiny:f16", out)
    assert json.loads(call("inspect", out, "--json").out)["layers"] == 9
    assert store.read_bytes() == MODEL.read_bytes()


def test_a_recipe_starts_from_a_model_of_ollamas(store, tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        "name: a\nsource: {file: 'ollama://tiny'}\noperations: [{delete: {layer: 5}}]\n"
    )
    call("run", recipe, "--dry-run")


@pytest.mark.parametrize("command", (("delete", "--layer", "5", MODEL), ("blend", MODEL, MODEL)))
def test_a_model_of_ollamas_is_never_an_output(store, command):
    err = call(*command, "ollama://tiny", "--force", code=2).err
    assert "give a path" in err
    assert store.read_bytes() == MODEL.read_bytes()


def test_a_name_that_ollama_lacks_names_the_nearest(store):
    with pytest.raises(InputError, match=r"Did you mean tiny:f16\?") as error:
        model_file("ollama://tiny:f17")
    assert error.value.found == "me/tiny:latest, tiny:f16, tiny:latest"


def test_a_store_that_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path))
    with pytest.raises(InputError, match="OLLAMA_MODELS"):
        model_file("ollama://tiny")


@pytest.mark.parametrize(
    "text", ("{", "[]", "{}", manifest(), manifest("sha256:../../etc/passwd"), manifest("a", "b"))
)
def test_manifests_that_name_no_model_file(store, text):
    path = store.parents[1] / "manifests/registry.ollama.ai/library/tiny/latest"
    path.write_text(text)
    with pytest.raises(InputError, match=r"manifest|one model file"):
        model_file("ollama://tiny")


@pytest.mark.parametrize("name", ("ollama://../../x", "ollama://a/b/c/d", "ollama://a:b/c"))
def test_names_that_leave_the_store(store, name):
    with pytest.raises(InputError, match="ollama://name:tag"):
        model_file(name)


def test_a_blob_that_is_gone(store):
    store.unlink()
    with pytest.raises(InputError, match="ollama pull tiny"):
        model_file("ollama://tiny")


def test_urls_are_refused_with_the_name_to_write():
    url = "https://huggingface.co/me/tiny-GGUF/resolve/main/tiny.gguf"
    err = call("inspect", url, code=1).err
    assert "Write hf://me/tiny-GGUF/tiny.gguf instead." in err
    assert "Download the file" in call("inspect", "https://example.org/a.gguf", code=1).err


@pytest.mark.parametrize("text", ("a.gguf", "/a/b.gguf", "C:/a.gguf", "C:\\a.gguf", "a://"))
def test_paths_are_no_names(text):
    assert not is_model_name(text)


class Hub(ThreadingHTTPServer):
    """Serves files as the hub's `resolve` does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *arguments: Any) -> None:
        """Quiet."""

    def do_HEAD(self) -> None:
        self.do_GET(body=False)

    def do_GET(self, body: bool = True) -> None:
        if "/resolve/" in self.path:
            self.server.asked.append(self.path)
        known = self.path.startswith("/me/tiny/resolve/") and self.path.endswith(".gguf")
        data = MODEL.read_bytes() if known else b""
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(data)))
        if known:
            self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
        else:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.end_headers()
        if body:
            self.wfile.write(data)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    needs_package("huggingface_hub", extra="hub")
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_file_of_the_hub_is_downloaded_once(hub, tmp_path):
    first = run("inspect", "hf://me/tiny/tiny.gguf", "--json")
    second = run("inspect", "hf://me/tiny/tiny.gguf", "--json")
    assert first.stdout == second.stdout
    assert hub.asked[0] == "/me/tiny/resolve/main/tiny.gguf"
    assert len(list((tmp_path / "hf").rglob("blobs/*"))) == 1


def test_a_revision_and_a_folder(hub):
    run("inspect", "hf://me/tiny@v1/sub/tiny.gguf")
    assert hub.asked[0] == "/me/tiny/resolve/v1/sub/tiny.gguf"


def test_a_file_that_the_hub_lacks(hub):
    err = run("inspect", "hf://me/other/tiny.gguf", code=1).stderr
    assert "hf://me/other/tiny.gguf: cannot be had from the hub" in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize("name", ("hf://me", "hf://me/tiny", "hf://me//tiny.gguf"))
def test_names_that_are_no_file_of_the_hub(name):
    with pytest.raises(InputError, match=r"hf://owner/repo/file\.gguf"):
        model_file(name)
