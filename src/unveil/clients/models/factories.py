"""A network of the user's own: its name, the arguments of its factory, and the call."""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch.nn import Module

from unveil.core.errors import UsageError, nearest
from unveil.core.registry import toml_value
from unveil.core.third_parties import attribute_of, installed
from unveil.core.usercode import running

Shape = tuple[int, int, int]
Factory = Callable[..., Any]

CLASSES = ("classes", "num_classes", "n_classes")
OBFUSCATIONS = ("in_channels", "in_chans")
SIDES = ("image_size", "img_size")
"""What a factory is given under these names; a side is one number where the pictures are square."""
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


def imported(named: ModelName, catalogue: Collection[str]) -> Factory:
    """What `package.module:attribute` or an installed entry point names, importable from the current directory.

    Raises:
        UsageError: No such module or attribute, one that fails when imported, or one that is no factory.
    """
    points = {} if ":" in named.name else installed("model", catalogue)
    path = points[named.name].value if named.name in points else named.name
    module_name, colon, attribute = path.partition(":")
    who = f"model {str(named)!r}"
    if not colon or not module_name or not attribute:
        raise UsageError(
            f"unknown model {named.name!r}; {nearest(named.name, [*catalogue, *points])} "
            "(a model of your own is named package.module:factory)"
        )
    factory: Factory = attribute_of(who, module_name, attribute, kind="model", thing="factory")
    return factory


def _ours(who: str, named: ModelName, factory: Factory, image_shape: Shape, classes: int) -> dict[str, Any]:
    """What we have of the parameters that a factory names; all that it insists on must be there."""
    channels, height, width = image_shape
    side = height if height == width else (height, width)
    ours: dict[str, Any] = {
        "image_shape": image_shape,
        **dict.fromkeys(CLASSES, classes),
        **dict.fromkeys(OBFUSCATIONS, channels),
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
