"""Models by name: `hf://owner/repo/file.gguf` and `ollama://name:tag` as files on this disk.

Ollama keeps a model as a manifest, a JSON file at
`manifests/HOST/NAMESPACE/NAME/TAG`, and blobs at `blobs/sha256-DIGEST`; the layer of type
`application/vnd.ollama.image.model` is the GGUF file.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from ..errors import InputError, did_you_mean
from .installation import require
from .shard_names import SHARD, shard_names

_NAME = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+)://(?P<rest>.+)", re.IGNORECASE)
_HUB_URL = re.compile(
    r"^https?://(?:huggingface\.co|hf\.co)/(?P<repo>[^/]+/[^/]+)/(?:resolve|blob|raw)/"
    r"(?P<revision>[^/]+)/(?P<file>[^?#]+)"
)
#: Packages whose errors mean that the hub cannot be reached: connections belong to the hub's HTTP
#: library, another one in every major version.
CONNECTIONS = ("httpx", "httpx2", "requests")
#: Host and namespace of Ollama's own models, which their names leave out.
_OLLAMA = ("registry.ollama.ai", "library")
_MODEL_LAYER = "application/vnd.ollama.image.model"
#: Where Ollama's service keeps its store if the user has none.
_SERVICE_STORE = Path("/usr/share/ollama/.ollama/models")


def is_model_name(text: str) -> bool:
    """Whether a text names a model by a scheme, and not a path."""
    return _NAME.fullmatch(text) is not None


def model_file(name: str) -> Path:
    """The local file for a model's name; a hub file is downloaded first.

    Raises:
        InputError: no such model, or an unknown scheme.
        MissingExtraError: the hub's package is not installed.
    """
    match = _NAME.fullmatch(name)
    scheme = match["scheme"].lower() if match else ""
    if match and scheme == "ollama":
        return _ollama_blob(name, match["rest"])
    if match and scheme == "hf":
        return _hub_file(name, match["rest"])
    raise InputError(
        "is not a model name that can be read",
        file=name,
        expected="a path, hf://owner/repo/file.gguf or ollama://name:tag",
        hint=_hub_hint(name) or "Download the file and give its path.",
    )


def _hub_hint(url: str) -> str | None:
    match = _HUB_URL.match(url)
    if match is None:
        return None
    revision = "" if match["revision"] == "main" else f"@{match['revision']}"
    return f"Write hf://{match['repo']}{revision}/{match['file']} instead."


def _hub_file(name: str, rest: str) -> Path:
    """Download a file of the hub, with its shards, or take it from the hub's cache."""
    parts = rest.strip("/").split("/")
    if len(parts) < 3 or not all(parts):
        raise InputError(
            "is not a file of the hub",
            file=name,
            expected="hf://owner/repo/file.gguf, or hf://owner/repo@revision/file.gguf",
        )
    repo, _, revision = "/".join(parts[:2]).partition("@")
    file = "/".join(parts[2:])
    hub: Any = require("huggingface_hub", "hub", f"reading {name}")
    shard = SHARD.match(file)
    files = [file] if shard is None else shard_names(shard["stem"], int(shard["count"]))
    try:
        paths = {one: hub.hf_hub_download(repo, one, revision=revision or None) for one in files}
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in ("huggingface_hub", *CONNECTIONS):
            raise
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise InputError(
            f"cannot be had from the hub: {lines[0] if lines else type(error).__name__}",
            file=name,
            hint="Check the name; private models need `hf auth login` or HF_TOKEN.",
        ) from None
    return Path(paths[file])


def _ollama_store() -> Path:
    own = os.environ.get("OLLAMA_MODELS")
    stores = [Path(own)] if own else [Path.home() / ".ollama" / "models", _SERVICE_STORE]
    for store in stores:
        if (store / "manifests").is_dir():
            return store
    raise InputError(
        "has no store of Ollama's",
        file=stores[0],
        hint="Set OLLAMA_MODELS to the folder that holds `manifests` and `blobs`.",
    )


def _ollama_blob(name: str, rest: str) -> Path:
    store = _ollama_store()
    path, _, tag = rest.strip("/").rpartition(":") if ":" in rest else (rest.strip("/"), "", "")
    parts = path.split("/")
    if not all(parts) or len(parts) > 3 or ".." in parts or "/" in tag:
        raise InputError("is not a model of Ollama's", file=name, expected="ollama://name:tag")
    place = (*_OLLAMA[: 3 - len(parts)], *parts, tag or "latest")
    manifest = store.joinpath("manifests", *place)
    try:
        document = json.loads(manifest.read_text(encoding="utf-8"))
        digests = [
            layer["digest"] for layer in document["layers"] if layer["mediaType"] == _MODEL_LAYER
        ]
    except OSError:
        known = _ollama_names(store)
        wanted = "/".join(parts) + ":" + (tag or "latest")
        raise InputError(
            "is not among Ollama's models",
            file=name,
            found=", ".join(sorted(known)[:8]) or "no model",
            hint=did_you_mean(wanted, known) or f"`ollama pull {wanted}` fetches it.",
        ) from None
    except (ValueError, TypeError, KeyError):
        raise InputError("is not a manifest of Ollama's", file=manifest) from None
    if len(digests) != 1 or not re.fullmatch(r"sha256:[0-9a-f]{64}", str(digests[0])):
        raise InputError(
            "does not name one model file",
            file=manifest,
            expected=f"one layer of type {_MODEL_LAYER}",
            found=len(digests),
        )
    blob = store / "blobs" / str(digests[0]).replace(":", "-")
    if not blob.is_file():
        raise InputError(
            "is missing in Ollama's store", file=blob, hint=f"`ollama pull {rest}` fetches it."
        )
    return blob


def _ollama_names(store: Path) -> list[str]:
    """The models of a store as Ollama lists them."""
    names = []
    for manifest in (store / "manifests").glob("*/*/*/*"):
        *place, tag = manifest.parts[-4:]
        left = 2 if (*place[:2],) == _OLLAMA else int(place[0] == _OLLAMA[0])
        names.append("/".join(place[left:]) + ":" + tag)
    return names
