"""Every tensor that a function takes or returns says its shape: no annotation has a bare `Tensor`."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from importlib import import_module

import jaxtyping
import pytest
import torch
from jaxtyping import TypeCheckError

import typechecker
from sources import FILES, SOURCE, nodes
from unveil.metrics.pixel import psnr


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


def bare_tensors(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """`LINE: FUNCTION(PARAMETER)` or `LINE: FUNCTION ->` for every annotation that has a bare `Tensor`."""
    for function in nodes:
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        given = function.args
        for parameter in (*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg):
            if parameter is not None and parameter.annotation is not None and has_bare_tensor(parameter.annotation):
                yield f"{parameter.lineno}: {function.name}({parameter.arg})"
        if function.returns is not None and has_bare_tensor(function.returns):
            yield f"{function.lineno}: {function.name} ->"


def test_every_tensor_of_a_function_says_its_shape() -> None:
    bare = [f"{path.relative_to(SOURCE)}: {where}" for path in FILES for where in bare_tensors(nodes(path))]
    assert not bare, "\n".join(bare)


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
    assert list(bare_tensors(ast.walk(ast.parse(source)))) == (["2: f(args)", "3: g ->"] if is_bare else [])


@pytest.mark.slow
def test_a_shape_that_does_not_fit_is_an_error_in_the_tests() -> None:
    with pytest.raises(TypeCheckError, match="parameter 'originals'"):
        psnr(torch.ones(3), torch.ones((2, 3, 4, 4)))


@pytest.mark.slow
def test_every_annotation_can_be_checked() -> None:
    """A check is built at the first call of its function: an annotation of one that is not called fails here."""
    for path in FILES:
        if path.name != "__main__.py" and path.parent.name not in ("flower", "nvflare"):
            parts = path.relative_to(SOURCE).with_suffix("").parts
            import_module(".".join(("unveil", *parts)).removesuffix(".__init__"))
    assert len(typechecker.BUILDS) > 4000
    for build in typechecker.BUILDS:
        build()
