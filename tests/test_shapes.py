"""Every tensor that a function takes or returns says its shape: no annotation has a bare `Tensor`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "unveil"
FILES = sorted(SOURCE.rglob("*.py"))


def is_closed(node: ast.AST) -> bool:
    """Whether a node is an array type of jaxtyping with its shape, such as `Float[Tensor, " n"]`, or a `Literal`."""
    if not (isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name)):
        return False
    kind = getattr(jaxtyping, node.value.id, None)
    return node.value.id == "Literal" or (isinstance(kind, type) and issubclass(kind, jaxtyping.AbstractDtype))


def has_bare_tensor(node: ast.AST) -> bool:
    """Whether `Tensor` or `torch.Tensor` is in an annotation outside of every type that says its shape."""
    if is_closed(node):
        return False
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return has_bare_tensor(ast.parse(node.value, mode="eval"))
    name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
    return name == "Tensor" or any(has_bare_tensor(child) for child in ast.iter_child_nodes(node))


def bare_tensors(source: str) -> Iterator[str]:
    """`LINE: FUNCTION(PARAMETER)` or `LINE: FUNCTION ->` for every annotation that has a bare `Tensor`."""
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        given = function.args
        for parameter in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg):
            if parameter is not None and parameter.annotation is not None and has_bare_tensor(parameter.annotation):
                yield f"{parameter.lineno}: {function.name}({parameter.arg})"
        if function.returns is not None and has_bare_tensor(function.returns):
            yield f"{function.lineno}: {function.name} ->"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_every_tensor_of_a_function_says_its_shape(path: Path) -> None:
    assert list(bare_tensors(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    ("annotation", "is_bare"),
    [
        ("Tensor", True),
        ("torch.Tensor", True),
        ("Tensor | None", True),
        ("'list[Tensor]'", True),
        ("Callable[[Tensor], float]", True),
        ("tuple[Float[Tensor, ' n'], Tensor]", True),
        ("Float[Tensor, ' n'] | None", False),
        ("Callable[[Int[Tensor, 'n 3']], Float[torch.Tensor, '']]", False),
        ("dict[str, Shaped[Tensor, ' ...']]", False),
        ("Literal['a Tensor']", False),
        ("TensorLike", False),
    ],
)
def test_a_bare_tensor_is_found_wherever_it_is(annotation: str, is_bare: bool) -> None:
    source = f"class C:\n    def f(self, *args: {annotation}):\n        async def g() -> {annotation}: ...\n"
    assert list(bare_tensors(source)) == (["2: f(args)", "3: g ->"] if is_bare else [])
