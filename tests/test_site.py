"""The site of the documentation: it builds without a warning, has every public name, and fetches nothing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import types
from pathlib import Path

import pytest

import unveil

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "CITATION.cff", "properdocs.yml")


def built(root: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a checkout, every warning an error."""
    return subprocess.run(
        [sys.executable, "-m", "properdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=root,
        env=os.environ | {"NO_COLOR": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = built(ROOT, folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_every_public_name_has_its_place_in_the_reference(site: Path) -> None:
    pages = "".join(path.read_text() for path in (site / "api").glob("*.html"))
    names = [name for name in unveil.__all__ if not isinstance(getattr(unveil, name), types.ModuleType)]
    names += [f"obfuscations.{kind.__name__}" for kind in unveil.obfuscations.CATALOGUE.values()]
    assert len(names) > 40
    assert not [name for name in names if f'id="unveil.{name}"' not in pages]


@pytest.mark.slow
def test_the_site_fetches_nothing_from_elsewhere(site: Path) -> None:
    for path in site.rglob("*.html"):
        page = path.read_text()
        fetched = re.findall(r"<(?:script|link|img|iframe|source)[^>]*?(?:src|href)=\"?([^\" >]+)", page)
        assert fetched
        assert not [url for url in fetched if re.match(r"(?:[a-z]+:)?//", url)], path
    for path in site.rglob("*.css"):
        assert not re.search(r"(?:url\(|@import )[\"']?(?:https?:)?//", path.read_text()), path


@pytest.mark.slow
def test_the_search_finds_text_of_every_part(site: Path) -> None:
    index = json.loads((site / "search" / "search_index.json").read_text())
    places = {entry["location"].split("#")[0] for entry in index["docs"]}
    assert {"index.html", "method.html", "CONTRIBUTING.html", "CHANGELOG.html", "api/attacks.html"} <= places
    assert any("unveil.play" in entry["title"] for entry in index["docs"])


@pytest.mark.slow
def test_whatever_is_wrong_in_the_pages_stops_the_build(tmp_path: Path) -> None:
    for name in ("docs", "src", "examples"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    for name in SOURCES:
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "docs" / "lost.md").write_text("# Nobody leads here\n")
    with (tmp_path / "docs" / "files.md").open("a") as page:
        page.write("\n[one](nowhere.md) [two](results.md#nowhere) [three](../src/nowhere.py) ![four](nowhere.png)\n")
    with (tmp_path / "CONTRIBUTING.md").open("a") as page:
        page.write("\n[five](docs/nowhere.md) [six][unveil.nowhere]\n")
    scoring = tmp_path / "src" / "unveil" / "metrics" / "scoring.py"
    scoring.write_text(scoring.read_text().replace("    Args:\n", "    Args:\n        nowhere: No parameter.\n", 1))
    done = built(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    for sign in (
        "- lost.md",
        "'nowhere.md'",
        "'results.md#nowhere'",
        "'src/nowhere.py.md'",
        "'nowhere.png'",
        "'CONTRIBUTING.md' contains a link 'nowhere.md'",
        "Could not find cross-reference target 'unveil.nowhere'",
        "Parameter 'nowhere' does not appear in the function signature",
    ):
        assert sign in done.stderr, f"{sign}\n{done.stderr}"
