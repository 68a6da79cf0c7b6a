"""A network of the user's own: its name, the arguments of its factory, and the call."""

from __future__ import annotations

import copy
import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from torch.nn import Module

from unveil.core.errors import UsageError, nearest
from unveil.core.registry import toml_value
from unveil.core.usercode import running

Shape = tuple[int, int, int]
Factory = Callable[..., Any]

CLASSES = ("classes", "num_classes", "n_classes")
CHANNELS = ("in_channels", "in_chans")
SIDES = ("image_size", "img_size")
"""What a factory is given under these names; a side is one number where the pictures are square."""
FEW = 12  # names of a module that a message lists
IF_REQUIRED = ("channels", "size")
"""Names that also mean other things: given only where the factory insists on them."""


@dataclass(frozen=True, kw_only=True)
class ModelName:
    """What an audit calls a network.

    Args:
        name: A name in the catalogue, or `package.module:factory`.
        arguments: Arguments of the factory by name.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """From `name` or `name?key=value&key=value`, each value TOML or else a plain string.

        Raises:
            UsageError: Something behind the question mark that is not key=value, or a key given twice.
        """
        name, _, rest = text.partition("?")
        arguments: dict[str, Any] = {}
        for pair in filter(None, rest.split("&")):
            key, equals, value = pair.partition("=")
            if not equals or not key.isidentifier():
                raise UsageError(
                    f"model {text!r}: expected key=value, got {pair!r}; write it as in ?width=32&norm=true"
                )
            if key in arguments:
                raise UsageError(f"model {text!r}: {key!r} is given twice; keep one of them")
            arguments[key] = toml_value(value)
        return cls(name=name, arguments=arguments)

    def __str__(self) -> str:
        """The name as `parse` reads it, arguments in the order of their names."""
        pairs = [f"{key}={_printed(value)}" for key, value in sorted(self.arguments.items())]
        return self.name + ("?" + "&".join(pairs) if pairs else "")


def call(named: ModelName, factory: Factory, *, image_shape: Shape, classes: int) -> Module:
    """Call a factory with the user's arguments and those of ours that it names.

    Args:
        named: What the user wrote; its arguments win over ours.
        factory: The factory, or a network that is built already, which is copied.
        image_shape: (channels, height, width).
        classes: Number of classes.

    Raises:
        UsageError: It asks for something else, does not know an argument, fails, or returns no network.
    """
    who = f"model {str(named)!r}"
    if isinstance(factory, Module):
        if named.arguments:
            raise UsageError(f"{who}: {named.name} is a network, not a function, and takes no arguments; drop them")
        with running(f"{who}: copying it", "name a function that builds and returns the network"):
            return copy.deepcopy(factory)
    settings = {**_ours(who, named, factory, image_shape, classes), **named.arguments}
    with running(f"{who}: its factory", "call it in Python to find out why"):
        model = factory(**settings)
    if not isinstance(model, Module):
        raise UsageError(
            f"{who}: expected the factory to return a torch.nn.Module, got {type(model).__name__}; "
            "name a function that builds and returns the model"
        )
    return model


def takes_any(factory: Factory) -> bool:
    """Whether a factory hands on arguments that it does not name, such as `num_classes`."""
    try:
        return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(factory).parameters.values())
    except (ValueError, TypeError):
        return False


def imported(named: ModelName, catalogue: Iterable[str]) -> Factory:
    """What `package.module:attribute` names, importable from the current directory.

    Raises:
        UsageError: No such module or attribute, one that fails when imported, or one that is no factory.
    """
    module_name, colon, attribute = named.name.partition(":")
    who = f"model {str(named)!r}"
    if not colon or not module_name or not attribute:
        raise UsageError(
            f"unknown model {named.name!r}; {nearest(named.name, list(catalogue))} "
            "(a model of your own is named package.module:factory)"
        )
    _check_module(who, module_name, attribute)
    if os.getcwd() not in sys.path:  # as `python -m` does, so that a user's own files are found
        sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    with running(
        f"{who}: importing {module_name!r}",
        f"{_nearby(module_name)}run from the directory that holds it, or install it",
    ):
        module = importlib.import_module(module_name)
    found: Any = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if isinstance(found, ModuleType) or inspect.isbuiltin(found) or not callable(found):
        names = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        hint = _nearest(attribute, names) or "define a function there that returns the model"
        raise UsageError(f"{who}: module {module_name!r} has no factory {attribute!r}; {hint}")
    factory: Factory = found
    return factory


def _check_module(who: str, name: str, attribute: str) -> None:
    root = name.partition(".")[0]
    if name.endswith(".py") or "/" in name or "\\" in name:
        dotted = name.removesuffix(".py").strip("./\\").replace("/", ".").replace("\\", ".")
        raise UsageError(f"{who}: {name!r} is a file, not a module; write {dotted}:{attribute}")
    if not all(part.isidentifier() for part in name.split(".")):
        raise UsageError(f"{who}: {name!r} is not the name of a module; write it as in package.module:factory")
    if root in sys.stdlib_module_names or (root == "unveil" and not name.startswith("unveil.clients.models")):
        whose = "unveil's own" if root == "unveil" else "Python's own"
        raise UsageError(
            f"{who}: {root!r} is {whose} and holds no model of yours; name a module of your own, renamed if it is "
            "called so too"
        )


def _nearest(attribute: str, names: list[str]) -> str:
    """The nearest of the names, all of them where they are few, or nothing."""
    hint = nearest(attribute, names) if names else ""
    return hint if hint.startswith("did you mean") or len(names) <= FEW else ""


def _nearby(module_name: str) -> str:
    """A file of almost that name in the current directory."""
    import difflib

    close = difflib.get_close_matches(module_name, [path.stem for path in Path.cwd().glob("*.py")], n=1, cutoff=0.7)
    return f"did you mean {close[0]!r}? Else " if close and close[0] != module_name else ""


def _ours(who: str, named: ModelName, factory: Factory, image_shape: Shape, classes: int) -> dict[str, Any]:
    """What we have of the parameters that a factory names; all that it insists on must be there."""
    channels, height, width = image_shape
    side = height if height == width else (height, width)
    ours: dict[str, Any] = {
        "image_shape": image_shape,
        **dict.fromkeys(CLASSES, classes),
        **dict.fromkeys(CHANNELS, channels),
        **dict.fromkeys(SIDES, side),
    }
    required = {**ours, **dict(zip(IF_REQUIRED, (channels, side), strict=True))}
    try:
        parameters = inspect.signature(factory).parameters
    except (ValueError, TypeError):
        raise UsageError(f"{who}: it does not say what it takes; wrap it in a function of your own") from None
    by_name = {k: p for k, p in parameters.items() if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    for key in named.arguments:
        if key not in by_name and not takes_any(factory):
            hint = nearest(key, list(by_name)) if by_name else "it has none"
            raise UsageError(f"{who}: its factory has no argument {key!r}; {hint}")
    given = {}
    for key, parameter in parameters.items():
        if key in named.arguments or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        insisted = parameter.default is parameter.empty
        if key in by_name and key in (required if insisted else ours):
            given[key] = required[key]
        elif insisted:
            raise UsageError(
                f"{who}: its factory asks for {key!r}, but is given only image_shape, classes, in_channels and "
                f'image_size; give it in the audit file, model = "{named.name}?{key}=…", or give {key!r} a default'
            )
    return given


def _printed(value: Any) -> str:
    """A value as `toml_value` reads it back; a string that is not taken for anything else stands bare."""
    if isinstance(value, str):
        bare = toml_value(value) == value and not set(value) & set("&\"'\\") and value == value.strip()
        return value if bare and value.isprintable() else _inside(value)
    return _inside(value)


def _inside(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("&", "\\u0026").replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_inside(key)} = {_inside(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inside, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)
