"""Networks of the user's own: their names, and calling their factories with the right arguments."""

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
CHANNELS = ("in_channels", "in_chans")
SIDES = ("image_size", "img_size")
"""Names of parameters that are given to a factory; a side is one number if the pictures are square, else a pair."""
IF_REQUIRED = ("channels", "size")
"""Names that may mean other things too; they are given only to a factory that has no default for them."""


@dataclass(frozen=True, kw_only=True)
class ModelName:
    """The name of a network in audits, with the arguments of its factory.

    Args:
        name: A name in the catalogue, or `package.module:factory`.
        arguments: Arguments of the factory by name.
    """

    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> ModelName:
        """Parse `name` or `name?key=value&key=value`; a value is TOML, or a plain string if it is not TOML.

        Raises:
            UsageError: An argument is not key=value, or a key is given twice.
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
        """Return the text from which `parse` makes an equal name; arguments are sorted by key."""
        pairs = [f"{key}={_printed(value)}" for key, value in sorted(self.arguments.items())]
        return self.name + ("?" + "&".join(pairs) if pairs else "")


def call(named: ModelName, factory: Factory, *, image_shape: Shape, classes: int) -> Module:
    """Call a factory with the user's arguments, and with shape and classes for the parameters that it has.

    Args:
        named: The name that the user gave; its arguments come first.
        factory: The factory, or a finished network, which is copied.
        image_shape: (channels, height, width).
        classes: Number of classes.

    Raises:
        UsageError: The factory requires another argument, does not have a given one, fails, or returns no network.
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
    """Return whether a factory takes `**kwargs`, with which it may pass on arguments such as `num_classes`."""
    try:
        return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(factory).parameters.values())
    except (ValueError, TypeError):
        return False


def imported(named: ModelName, catalogue: Collection[str]) -> Factory:
    """Import the factory of `package.module:attribute`, also from the current directory, or of an entry point.

    Args:
        named: The name that the user gave.
        catalogue: Names of unveil's own models.

    Raises:
        UsageError: The module or the attribute is missing, importing fails, or the attribute is no factory.
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
    """Return the arguments for those parameters of a factory that the user did not give.

    Raises:
        UsageError: The factory has no such parameter as the user gave, or requires one that is not known here.
    """
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
    """Return a value as text that `toml_value` reads back; a string has quotes only if it needs them."""
    if isinstance(value, str):
        bare = toml_value(value) == value and not set(value) & set("&\"'\\") and value == value.strip()
        return value if bare and value.isprintable() else _inside(value)
    return _inside(value)


def _inside(value: Any) -> str:
    """Return a value as TOML, in which `&` is escaped."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("&", "\\u0026").replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_inside(key)} = {_inside(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inside, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)
