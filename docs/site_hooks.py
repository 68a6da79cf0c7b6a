"""Pages of the site that are no files of docs/: of the repository's root, of the API, and of files that are linked.

ProperDocs calls the `on_` functions. The same Markdown is read on the hosting site, where a link names a file of the
repository. Here the link is rewritten to the page of that file, and the build fails where there is none.
"""

from __future__ import annotations

import ast
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from properdocs.config.defaults import MkDocsConfig
from properdocs.structure.files import File, Files, InclusionLevel
from properdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "unveil"
PAGES = {"README.md": "index.md"} | {name: name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")}
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")
FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the API's pages to the navigation."""
    assert config.nav is not None
    config.nav.append({"API": [{room: f"api/{room}.md"} for room in public_names()]})
    config.watch.append(str(PACKAGE))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for room, names in public_names().items():
        files.append(File.generated(config, f"api/{room}.md", content=api_page(room, names)))
    for path in sorted({path for path in linked(files) if not path.startswith("docs/") and path not in PAGES}):
        if (ROOT / path).is_file():
            code = (ROOT / path).read_text(encoding="utf-8")
            content = f"# {path}\n\n```{Path(path).suffix[1:]}\n{code.rstrip()}\n```\n"
            page = File.generated(config, f"{path}.md", content=content, inclusion=InclusionLevel.NOT_IN_NAV)
            files.append(page)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite links between files of the repository to links between pages."""
    here = repository_path(page.file.src_uri)

    def to_page(link: re.Match[str]) -> str:
        target = target_of(here, link[1])
        uri = target.removeprefix("docs/") if target.startswith("docs/") else PAGES.get(target, f"{target}.md")
        return posixpath.relpath(uri, posixpath.dirname(page.file.src_uri) or ".")

    return outside_code(markdown, lambda text: LINK.sub(to_page, text))


def outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """The text with every part that is no block of code changed."""
    return "".join(part if part.startswith("```") else change(part) for part in FENCE.split(markdown))


def repository_path(uri: str) -> str:
    """The path in the repository of the file that a page is made of."""
    return next((source for source, page in PAGES.items() if page == uri), f"docs/{uri}")


def target_of(here: str, link: str) -> str:
    """The path in the repository of what a file links to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(here), link))


def linked(files: Files) -> Iterator[str]:
    """The paths in the repository of all that the pages link to."""
    for file in files.documentation_pages():
        here = repository_path(file.src_uri)
        for part in FENCE.split(file.content_string):
            if not part.startswith("```"):
                yield from (target_of(here, link) for link in LINK.findall(part))


def public_names() -> dict[str, list[str]]:
    """The names of `__init__.pyi` by the room that they are of; of a room that is itself public, all that it offers."""
    names: dict[str, list[str]] = {}
    for line in ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8")).body:
        match line:
            case ast.ImportFrom(module=None, names=rooms):
                for room in rooms:
                    names[room.name] = [f"unveil.{room.name}.{name}" for name in offered(room.name)]
            case ast.ImportFrom(module=str(module), names=aliases):
                names.setdefault(module.split(".")[0], []).extend(f"unveil.{alias.name}" for alias in aliases)
    return {room: names[room] for room in sorted(names)}


def offered(room: str) -> list[str]:
    """What a room's `__init__` offers: its `__all__`, or what it defines and takes from its own files."""
    body = ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8")).body
    found: list[str] = []
    for line in body:
        match line:
            case ast.Assign(targets=[ast.Name(id="__all__")], value=value):
                return list(ast.literal_eval(value))
            case ast.ImportFrom(module=str(module), names=aliases) if module.startswith(f"unveil.{room}"):
                found += [alias.name for alias in aliases]
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                found.append(name)
    return [name for name in found if not name.startswith("_")]


def api_page(room: str, names: list[str]) -> str:
    """The Markdown of a room's page: what the room says of itself, and a block of mkdocstrings for each public name.

    Components are shown without their methods, which are those of their kind's protocol on the page of `core`.
    """
    about = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    blocks = []
    for name in names:
        is_component = name.startswith(f"unveil.{room}.")
        blocks.append(f"::: {name}" + ("\n    options: {members: false}" if is_component else ""))
    return "\n\n".join([f"# {room}", about, *blocks]) + "\n"
