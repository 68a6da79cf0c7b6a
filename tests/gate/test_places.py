"""The line of an obfuscation in an audit file."""

from __future__ import annotations

import pytest

from unveil.gate.places import Place, located

FILE = Place(uri="audit.toml", is_relative=True)
TEXT = """# obfuscations = ["fp16"]
title = 'x'
  # "sign"
obfuscations = [
    "none", "topk:density=.05",
    'fp16', # "sign"
]
[[client]]
training = "fedsgd:clip=1,noise=1"
"""


def canonical(text: str) -> str:
    return text.replace("=.05", "=0.05")


@pytest.mark.parametrize(
    ("obfuscation", "line"),
    [
        ("none", 5),
        ("topk:density=0.05", 5),
        ("fp16", 6),
        ("fedsgd:clip=1,noise=1, then fp16", 6),
        ("fedsgd:clip=1,noise=1", 9),
        ("fedsgd:clip=1,noise=1, then nf4", 9),
        ("nf4", 4),  # given by --set: the list
    ],
)
def test_the_line_is_that_of_the_obfuscation_as_it_is_written_there(obfuscation: str, line: int) -> None:
    assert located(FILE, TEXT, obfuscation, canonical) == Place(uri="audit.toml", is_relative=True, line=line)


@pytest.mark.parametrize("text", ["", "[[client]]\nname = 'obfuscations'\n"])
def test_without_a_list_there_is_no_line(text: str) -> None:
    assert located(FILE, text, "fp16", canonical) == FILE


def test_lines_are_those_of_an_editor() -> None:
    text = '# a\x0bb\u2028c\r\nobfuscations = ["fp16"]\r\n'
    assert located(FILE, text, "fp16", canonical).line == 2
