"""The templates of pages, and how a page shows names in its sentences."""

from __future__ import annotations

import re
from types import CodeType

from jinja2 import BytecodeCache, ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape
from jinja2.bccache import Bucket
from markupsafe import Markup, escape


class Compiled(BytecodeCache):
    """The templates that this process has compiled; the environments of all pages share them."""

    def __init__(self) -> None:
        self._code: dict[tuple[str, str], CodeType | None] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        """Give a template its code, if it has been compiled with the same text."""
        bucket.code = self._code.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        """Keep the code of a template that was compiled."""
        self._code[bucket.key, bucket.checksum] = bucket.code


COMPILED = Compiled()


def environment(*packages: str) -> Environment:
    """Return an environment that escapes everything, with the filters `prose` and `spec`.

    Args:
        packages: Packages of unveil that have the templates, such as `report`; the first one that has a name gives it.
    """
    made = Environment(
        loader=ChoiceLoader([PackageLoader("unveil", package) for package in packages]),
        autoescape=select_autoescape(enabled_extensions=("html", "html.j2")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        bytecode_cache=COMPILED,
    )
    made.filters.update(prose=prose, spec=spec)
    return made


def spec(text: str) -> Markup:
    """A SPEC in which a line may break after punctuation."""
    return Markup(re.sub(r"([:,+])", r"\1<wbr>", str(escape(text))))


def prose(text: str) -> Markup:
    """A sentence whose backticks mark names; everything in it is escaped first."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
