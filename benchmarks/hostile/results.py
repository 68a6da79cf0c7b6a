"""Results folders that were made to do harm: by somebody who passes one on and waits for its report."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.hostile.cases import ESCAPE, MARKUP, SECRET, STRANGE, Hostile, linked, sparse
from unveil.core.files import MIB

USED = (0, 2)
ARGS = ("report", "bad")


def cases(good: Path) -> Iterator[Hostile]:
    """The cases.

    Args:
        good: A results folder of an audit that ended.
    """
    lines = [json.loads(line) for line in (good / "results.jsonl").read_text().splitlines()]
    picture = lines[0]["outcomes"]["attack"]["images"][0]

    def case(name: str, change: Callable[[Path], object], codes: tuple[int, ...] = USED) -> Hostile:
        def make(folder: Path) -> None:
            shutil.copytree(good, folder / "bad")
            (folder / "secret.png").write_bytes(b"\x89PNG\r\n\x1a\n" + SECRET.encode() * 9)
            (folder / "secret.json").write_text(json.dumps({"a": SECRET}))
            (folder / "outside").mkdir()
            shutil.copytree(good / "images", folder / "outside" / "images")
            change(folder / "bad")

        return Hostile(kind="results folders", name=name, args=ARGS, make=make, codes=codes)

    for file, codes in (("results.jsonl", (2, 5)), ("audit.json", USED), (picture, USED)):
        for name, strange in STRANGE.items():
            yield case(f"{file.rpartition('/')[2]} is {name}", _instead(file, strange), codes)
    for file, target in (("audit.json", "../secret.json"), (picture, "../../../secret.png")):
        yield case(f"{file.rpartition('/')[2]} is a link to a secret", _instead(file, linked(target)))
    yield case("audit.json is a link to /etc/passwd", _instead("audit.json", linked("/etc/passwd")))
    yield case("results.jsonl is a link to /etc/passwd", _instead("results.jsonl", linked("/etc/passwd")), (2,))
    yield case("the report is a link to a secret", _instead("report.html", linked("../secret.json")))
    yield case("images is a link out of the folder", _instead("images", linked("../outside/images")))
    yield case("a picture of 500 MB", lambda folder: _giant(folder / picture))
    yield case("settings of 300 MB", lambda folder: sparse(folder / "audit.json", 300 * MIB))
    for name, path in PATHS.items():
        yield case(f"a picture's path is {name}", _rewritten(lines, _set(("originals",), [path])))
        yield case(f"a rebuilt picture's path is {name}", _rewritten(lines, _set((*ATTACK, "images"), [path])))
    for where, value in NONSENSE:
        name = f"{'.'.join(where)} is {json.dumps(value)[:40]}"
        yield case(name, _rewritten(lines, _set(where, value)))
    for text, what in ((ESCAPE, "escapes"), (MARKUP, "markup"), ("x" * 900_000, "a text of 900 kB")):
        for key in ("client", "training", "obfuscation", "attack", "threat_model", "model", "images"):
            yield case(f"settings.{key} holds {what}", _rewritten(lines, _set(("settings", key), text)))
        yield case(f"notes hold {what}", _rewritten(lines, _set((*ATTACK, "notes"), [text])))
        yield case(f"an unknown key of {what}", _rewritten(lines, _set((text,), 1)), (2,))
        yield case(f"a metric of {what}", _rewritten(lines, _set((*ATTACK, "scores", text), [1.0, 2.0])))
    line = json.dumps(lines[0])
    for name, content in {
        "no JSON": b"hello\n",
        "lists 200,000 deep": b"[" * 200_000 + b"\n",
        "tables 200,000 deep": b'{"a":' * 200_000 + b"\n",
        "null": b"null\n",
        "UTF-16": line.encode("utf-16"),
        "no UTF-8": line.encode().replace(b"rog", b"r\xff\xfeg") + b"\n",
        "half a surrogate": line.replace("rog", "r\\ud800g").encode() + b"\n",
        "a null in a name": line.replace("rog", "r\\u0000g").encode() + b"\n",
        "100,000 empty lines": b"\n" * 100_000,
        "a line cut short before another": line[:500].encode() + b"\n" + line.encode() + b"\n",
        "a number of 100,000 digits": line.replace('"seed":0', '"seed":' + "9" * 100_000).encode() + b"\n",
        "a number of 10^400": line.replace('"iterations":2', '"iterations":1e400').encode() + b"\n",
    }.items():
        yield case(f"results.jsonl holds {name}", _lines(content), (0, 2, 5))


PATHS: Mapping[str, str] = {
    "above": "../secret.png",
    "above images": "images/../../secret.png",
    "absolute": "/etc/passwd",
    "a URL of a file": "file:///etc/passwd",
    "a URL": "http://example.org/x.png",
    "with backslashes": "images\\..\\..\\secret.png",
    "with a null": "images/a\0b.png",
    "too long": "images/" + "x" * 5000,
    "with markup": "images/" + MARKUP,
    "empty": "",
    "the folder": "images",
}
"""Where a picture may be said to lie."""

ATTACK = ("outcomes", "attack")
SCORES = (*ATTACK, "scores", "psnr")
NONSENSE: tuple[tuple[tuple[str, ...], Any], ...] = (
    *(
        (SCORES, values)
        for values in (["NaN", "NaN"], ["Infinity"] * 2, ["-Infinity"] * 2, [1e308] * 2, [], [1.0], None)
    ),
    *((SCORES, values) for values in (["x", "y"], [True, False], {"a": 1}, [[1.0], [2.0]])),
    *((("blind", "psnr"), values) for values in (["NaN", "NaN"], [], [1e308, 1e308], ["Infinity", 1.0])),
    *(((*ATTACK, "scores"), value) for value in ({}, [], {"psnr": [1.0], "ssim": [1.0, 2.0]})),
    *(((*ATTACK, "controls"), value) for value in ({}, {"a": {}}, {"a": {"psnr": []}}, {"a": {"psnr": ["NaN", 1]}})),
    *(((*ATTACK, "confidence"), value) for value in (["NaN", "NaN"], [1.0], [1e308, -1e308])),
    *(((*ATTACK, "seconds"), value) for value in ("NaN", "Infinity", -1, 1e308, True)),
    *(((*ATTACK, "labels"), value) for value in ([], [10**30], [True, False])),
    *((("outcomes",), value) for value in ({}, {"enhanced": {"scores": {}}}, [], None)),
    *(
        (("losses",), value)
        for value in ([], ["NaN"], ["Infinity", 1.0], [1e308, 1e-308], [5e-324, 1.0], [0.5] * 3_000_000)
    ),
    *((("peak_mib",), value) for value in ("NaN", "Infinity", -5, 1e308)),
    *((("wire_bits",), value) for value in (0, -5, 1.5, True, 10**400)),
    *((("raw_bits",), value) for value in (0, -5, 10**400)),
    *((("iterations",), value) for value in (-1, 10**30, True)),
    *((("seed",), value) for value in (-1, 10**30, 1.5, None, True)),
    *((("settings",), value) for value in ({}, [], {"client": 1})),
    *((("versions",), value) for value in ({}, {"a": 1}, {MARKUP: MARKUP})),
    *((("stop",), value) for value in ("", 5, MARKUP)),
    *((("format",), value) for value in (1, 3, 2.0, True, "2", None)),
    *((("checksums",), value) for value in ({"../x": "y"}, [], {"images": 1})),
    *((("metrics",), value) for value in ({}, {"psnr": {}}, [])),
)
"""Where a record holds nonsense, and which."""


def _instead(file: str, make: Callable[[Path], object]) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / file
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        make(path)

    return change


def _giant(path: Path) -> None:
    with path.open("r+b") as file:
        os.truncate(file.fileno(), 500 * MIB)


def _set(where: tuple[str, ...], value: Any) -> Callable[[Any], None]:
    def change(record: Any) -> None:
        *parents, last = where
        for parent in parents:
            record = record[parent]
        record[last] = value

    return change


def _rewritten(lines: list[Any], change: Callable[[Any], None]) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        records = copy.deepcopy(lines)
        for record in records:
            change(record)
        (folder / "results.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    return write


def _lines(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "results.jsonl").write_bytes(content)
