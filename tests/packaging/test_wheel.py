"""What stands beside the package in the repository is inside a wheel, and is found there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ggsurgery import __version__
from ggsurgery.files.resources import shipped
from tests._needs import ROOT

PACKAGES = [path for path in sys.path if path.endswith("site-packages")]
ASK = """
from importlib import metadata
import ggsurgery
from ggsurgery.chat.families import families
from ggsurgery.pipeline.document import load_document
from ggsurgery.files.resources import shipped
print(ggsurgery.__file__)
print(metadata.version("ggsurgery"), ggsurgery.__version__)
print(len([f.go for f in families().values()]))
print(sorted(load_document(p).path.name for p in shipped("models").glob("*.yaml")))
"""


def test_a_checkout_finds_its_folders() -> None:
    assert shipped("Modelfile.templates") == ROOT / "Modelfile.templates"
    assert shipped("models") == ROOT / "models"


@pytest.mark.slow
def test_a_wheel_carries_templates_and_recipes(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "-C",
        "wheel.cmake=false",
        "--wheel-dir",
        str(tmp_path),
        str(ROOT),
    ]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "site")
    for folder, pattern in (("Modelfile.templates", "*.Modelfile"), ("models", "*.yaml")):
        for path in (ROOT / folder).glob(pattern):
            assert f"ggsurgery/{folder}/{path.name}" in names
    models = {n.removeprefix("ggsurgery/models/") for n in names if "/models/" in n}
    recipes = {p.name for p in (ROOT / "models").glob("*.yaml")}
    texts = {"heldout_search.txt", "heldout_report.txt", "LICENSE", "README.md", "healed.yaml"}
    assert models == {"demo.txt", *recipes, *(f"tiny-qwen3/{text}" for text in texts)}
    done = subprocess.run(
        # -S: no .pth files, whose hook of an editable install would come before the wheel.
        [sys.executable, "-S", "-c", ASK],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path / "site"), *PACKAGES])},
    )
    file, versions, n_families, loaded = done.stdout.splitlines()
    assert file.startswith(str(tmp_path))
    assert versions == f"{__version__} {__version__}"
    assert int(n_families) == len(list((ROOT / "Modelfile.templates").glob("*.Modelfile")))
    assert loaded == str(sorted(recipes))
