"""Hints name an install command that works for how the package was installed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ggsurgery.files import installation
from ggsurgery.files.installation import MissingExtraError, install_command
from tests._needs import ROOT

INSIDE = "ggsurgery/files/installation.py"


class Distribution:
    """As importlib.metadata gives it, with one file."""

    def __init__(self, origin: object) -> None:
        self.origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self.origin is None else json.dumps(self.origin)


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """The module as it stands in site-packages, without a source tree around it."""
    monkeypatch.setattr(installation, "__file__", str(tmp_path / "site" / INSIDE))
    needed = ["click>=8.1", "lm-eval>=0.4.9; extra == 'bench'", 'x>1; extra == "hub"']
    monkeypatch.setattr(installation.metadata, "requires", lambda name: needed)
    return monkeypatch


def made_from(site: pytest.MonkeyPatch, origin: object) -> str:
    site.setattr(installation.metadata, "distribution", lambda name: Distribution(origin))
    return install_command("bench")


def test_a_source_tree_is_installed_where_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT.parent)
    assert install_command("bench") == f"pip install -e '{ROOT}[bench]'"
    monkeypatch.chdir(ROOT)
    assert install_command("bench") == "pip install -e '.[bench]'"
    assert "Install it with: pip install -e '.[plot]'" in str(
        MissingExtraError("matplotlib", "plot", "a plot")
    )


def test_a_wheel_a_folder_a_repository_an_index(site: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheel = tmp_path / "a b" / "ggsurgery-0.1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.touch()
    archive = {"url": wheel.as_uri(), "archive_info": {}}
    assert made_from(site, archive) == f"pip install '{wheel}[bench]'"
    folder = {"url": tmp_path.as_uri(), "dir_info": {}}
    assert made_from(site, folder) == f"pip install '{tmp_path}[bench]'"
    gone = {"url": (tmp_path / "gone.whl").as_uri(), "archive_info": {}}
    assert made_from(site, gone) == "pip install 'lm-eval>=0.4.9'"
    url = "https://example.org/g.git"
    vcs = {"url": url, "vcs_info": {"vcs": "git", "commit_id": "ab12"}}
    assert made_from(site, vcs) == f"pip install 'ggsurgery[bench] @ git+{url}@ab12'"
    assert made_from(site, None) == "pip install 'ggsurgery[bench]'"


def test_these_are_requirements_that_pip_reads(site: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import shlex

    from packaging.requirements import Requirement

    vcs = {"url": "https://example.org/g.git", "vcs_info": {"vcs": "git", "commit_id": "ab12"}}
    gone = {"url": (tmp_path / "gone.whl").as_uri(), "archive_info": {}}
    for origin in (vcs, gone, None):
        (requirement,) = shlex.split(made_from(site, origin))[2:]
        assert Requirement(requirement)


def test_no_hint_names_a_release_that_is_not_there() -> None:
    """`pip install 'ggsurgery[bench]'` cannot work before there is a release."""
    for path in (ROOT / "README.md", *(ROOT / "ggsurgery").rglob("*.py")):
        assert "'ggsurgery[" not in path.read_text(encoding="utf-8"), path
