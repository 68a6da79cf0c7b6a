"""A pretended CUDA device, which finds on any machine what would fail or be slow on a card.

A tensor on the card is an ordinary tensor whose storage is noted; the processor computes everything. What says or asks
for a device (`Tensor.device`, `Tensor.to`, factories, generators) is replaced, and a dispatch mode sees all operations,
those of a backward pass too. As torch does on a card, it refuses tensors of two devices in one operation, and a
generator of the other device. It counts what makes the processor wait for the card, and notes float64.

It cannot see how CUDA computes (rounding, order of sums, missing kernels, threads of its own for a backward pass), nor
time or memory. What torch makes inside an operation of its own, without a word on the device, may meet both devices.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import unveil

CARD, CPU = torch.device("cuda:0"), torch.device("cpu")
PEAK_MIB, NAME = 3, "a pretended card"
SOURCE = Path(unveil.__file__).parent
FULL_RANK_ONLY = "linalg_lstsq"
INDEXING = ("aten::index", "aten::_unsafe_index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_")
WAITS = {
    "aten::_local_scalar_dense",  # item(), float(), int(), bool(), `if tensor`
    "aten::_linalg_check_errors",
    "aten::bincount",
    "aten::equal",
    "aten::masked_select",
    "aten::nonzero",
    "aten::repeat_interleave",
    "aten::_unique2",
    "aten::unique_dim",
    "aten::unique_consecutive",
}
"""Operations after which the host waits for the card."""

REAL_DEVICE = torch._C.TensorBase.device.__get__


class CardGenerator(torch.Generator):
    """A generator that says it is on the device for which it was made; it draws as one on the processor does."""

    made: ClassVar[dict[int, CardGenerator]] = {}

    def __new__(cls, device: Any = "cpu") -> CardGenerator:
        made = super().__new__(cls)
        made.where = _resolved(device)
        cls.made[made._cdata] = made  # an operation gets the same generator as another Python object
        return made

    @property
    def device(self) -> torch.device:
        return self.where


class PretendedCard(TorchDispatchMode):
    """What is on the card, and what was noted.

    Attributes:
        waits: (operation, `FILE FUNCTION` in unveil) -> how often the host waited for the card.
        doubles: `FILE FUNCTION` -> entries of the largest float64 tensor that was made on the card there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[tuple[str, str]] = Counter()
        self.doubles: Counter[str] = Counter()
        self._storages: set[StorageWeakRef] = set()
        self._made_inside: set[StorageWeakRef] = set()  # by torch, in code that the mode does not see; on either device
        self._target: torch.device | None = None

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # or torch imports its compiler, which takes seconds

    def device_of(self, tensor: Tensor) -> torch.device:
        """The device on which a tensor is, as a machine with a card would say."""
        while torch._C._functorch.is_functorch_wrapped_tensor(tensor):
            tensor = torch._C._functorch.get_unwrapped(tensor)
        real = REAL_DEVICE(tensor)
        if real.type != "cpu" or tensor.layout != torch.strided:
            return real
        return CARD if StorageWeakRef(tensor.untyped_storage()) in self._storages else CPU

    def hold(self, tensor: Tensor) -> bool:
        """Note that a tensor is on the card; returns whether its memory was not noted before."""
        if REAL_DEVICE(tensor).type != "cpu" or tensor.layout != torch.strided:
            return False
        storage = StorageWeakRef(tensor.untyped_storage())
        if storage in self._storages:
            return False
        if len(self._storages) % 1000 == 999:
            self._storages = {kept for kept in self._storages if not kept.expired()}
        self._storages.add(storage)
        return True

    def _is_either(self, tensor: Tensor) -> bool:
        strided = REAL_DEVICE(tensor) == CPU and tensor.layout == torch.strided
        return strided and StorageWeakRef(tensor.untyped_storage()) in self._made_inside

    @contextmanager
    def making(self, target: torch.device) -> Iterator[None]:
        """Inside the `with` block results are on a device, whatever they are made of."""
        before, self._target = self._target, target
        try:
            yield
        finally:
            self._target = before

    def wait(self, operation: str) -> None:
        self.waits[operation, _place()] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if leaf is not None]
        tensors = [leaf for leaf in given if isinstance(leaf, Tensor)]
        name, target = func._schema.name, self._target
        made_inside = target is None and not tensors
        with torch._C.DisableTorchFunction():
            on_card = [self.device_of(tensor) == CARD for tensor in tensors]
            if any(on_card):
                for tensor in tensors:
                    if self._is_either(tensor):
                        self.hold(tensor)
            if target is None and name != "aten::copy_":
                self._refuse_two_devices(func, args, kwargs, tensors)
            where = target or (CARD if any(on_card) else CPU)
            for generator in given:
                if isinstance(generator, torch._C.Generator):
                    found = made.where if (made := CardGenerator.made.get(generator._cdata)) else CPU
                    if found != where:
                        raise RuntimeError(
                            f"Expected a '{where.type}' device type for generator but found '{found.type}'"
                        )
            if any(on_card) and self._waits(name, args, kwargs):
                self.wait(name)
            if name == "aten::copy_" and target is None and self.device_of(args[0]) == CPU:
                if any(on_card):
                    self.wait("copy to the processor")
                where = CPU
        result = func(*args, **kwargs)
        if made_inside:
            made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor) and REAL_DEVICE(leaf) == CPU]
            self._made_inside |= {StorageWeakRef(tensor.untyped_storage()) for tensor in made}
        if where == CARD:
            with torch._C.DisableTorchFunction():
                made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
                fresh = [self.hold(tensor) for tensor in made]
            new = [t.numel() for is_new, t in zip(fresh, made, strict=True) if is_new and t.dtype == torch.float64]
            if new:
                self.doubles[_place()] = max(self.doubles[_place()], *new)
        return result

    def _waits(self, name: str, args: Any, kwargs: Any) -> bool:
        if name in INDEXING:
            masks = (i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8))
            return any(self.device_of(mask) == CARD for mask in masks)
        return name in WAITS and kwargs.get("output_size") is None

    def _refuse_two_devices(self, func: Any, args: Any, kwargs: Any, tensors: list[Tensor]) -> None:
        """Raise as torch does; a number on the processor and indices there may meet what is on the card."""
        name = func._schema.name
        if name in INDEXING:
            indices = [index for index in args[1] if index is not None]
            if self.device_of(args[0]) == CPU and any(self.device_of(index) == CARD for index in indices):
                raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor (cpu)")
            tensors = [args[0], *args[2:3]]
        tensors = [tensor for tensor in tensors if isinstance(tensor, Tensor)]
        written = [
            value
            for value, argument in zip(args, func._schema.arguments, strict=False)
            if argument.alias_info is not None and argument.alias_info.is_write and isinstance(value, Tensor)
        ]
        numbers_too = name in ("aten::cat", "aten::stack")
        away = [
            t for t in tensors if self.device_of(t) == CPU and (t.dim() or numbers_too or any(t is w for w in written))
        ]
        if away and any(self.device_of(t) == CARD for t in tensors):
            where = "Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"
            raise RuntimeError(f"{where} ({name})")
        if name == "aten::" + FULL_RANK_ONLY and any(self.device_of(t) == CARD for t in tensors):
            driver = kwargs.get("driver", args[3] if len(args) > 3 else None)
            if driver != "gels":
                raise RuntimeError(f"torch.linalg.lstsq: a card has driver gels alone, for full rank; found {driver}")


class _Moved(torch.autograd.Function):
    """A copy on another device; its slope goes back to the first one."""

    generate_vmap_rule = True

    @staticmethod
    def forward(tensor: Any, card: Any, source: Any, target: Any) -> Any:
        if target == CPU:
            card.wait("copy to the processor")
        with card.making(target):
            return tensor.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        _, ctx.card, ctx.source, ctx.target = inputs

    @staticmethod
    def backward(ctx: Any, slope: Any) -> Any:
        return _Moved.apply(slope, ctx.card, ctx.target, ctx.source), None, None, None


def _resolved(device: Any) -> torch.device:
    found = torch.device(device)
    return CARD if found.type == "cuda" else found


def _place() -> str:
    """File and function of unveil that run now, innermost."""
    frame = sys._getframe(1)
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(SOURCE):
            return f"{path.relative_to(SOURCE)} {frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "outside"


def _to(card: PretendedCard) -> Callable[..., Any]:
    plain = torch._C.TensorBase.to

    def to(self: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        like = args[0] if args else kwargs.get("other")
        if isinstance(like, Tensor):
            device, dtype, rest = like.device, like.dtype, {}
        else:
            device, dtype, _, layout = torch._C._nn._parse_to(*args, **{k: v for k, v in kwargs.items() if k != "copy"})
            rest = {} if layout is None else {"memory_format": layout}
        source = self.device
        target = source if device is None else _resolved(device)
        if "meta" in (source.type, target.type):
            return plain(self, *args, **kwargs)
        moved = self if target == source else _Moved.apply(self, card, source, target)
        if dtype is not None and dtype != moved.dtype:
            return plain(moved, dtype, **rest)
        return plain(moved, moved.dtype, **rest, copy=bool(kwargs.get("copy", False)) and moved is self)

    return to


def _factory(plain: Callable[..., Any], card: PretendedCard) -> Callable[..., Any]:
    def make(*args: Any, **kwargs: Any) -> Any:
        device = kwargs.get("device")
        if device is None:
            if "like" in plain.__name__ or plain in (torch.as_tensor, torch.asarray):
                return plain(*args, **kwargs)
            with card.making(CPU):
                return plain(*args, **kwargs)
        if torch.device(device).type not in ("cuda", "cpu"):
            return plain(*args, **kwargs)
        target = _resolved(device)
        if plain in (torch.as_tensor, torch.asarray) and isinstance(args[0], Tensor):
            return args[0].to(target, **{k: v for k, v in kwargs.items() if k == "dtype" and v is not None})
        with card.making(target):
            made = plain(*args, **{**kwargs, "device": "cpu"})
        if target == CARD:
            card.hold(made)
        return made

    return make


def _on_host_only(plain: Callable[..., Any], card: PretendedCard) -> Callable[..., Any]:
    def read(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.device == CARD:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first.")
        return plain(self, *args, **kwargs)

    return read


def _waiting(plain: Callable[..., Any], card: PretendedCard) -> Callable[..., Any]:
    def read(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self.device == CARD:
            card.wait(plain.__name__)
        return plain(self, *args, **kwargs)

    return read


def _beside(plain: Callable[..., Any], card: PretendedCard) -> Callable[..., Any]:
    def make(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        made = plain(self, *args, **kwargs)
        if self.device == CARD:
            card.hold(made)
        return made

    return make


def _copied(plain: Callable[..., Any], card: PretendedCard) -> Callable[..., Any]:
    def copy(self: Tensor, memo: Any) -> Any:
        with card.making(self.device):
            made = plain(self, memo)
        if self.device == CARD:
            card.hold(made)
        return made

    return copy


@contextmanager
def pretended_card(patch: pytest.MonkeyPatch) -> Iterator[PretendedCard]:
    """A card is at hand inside the `with` block, as `cuda:0`."""
    card = PretendedCard()
    with patch.context() as within:
        base = torch._C.TensorBase
        within.setattr(Tensor, "device", property(card.device_of), raising=False)
        within.setattr(Tensor, "is_cuda", property(lambda self: card.device_of(self) == CARD), raising=False)
        within.setattr(Tensor, "is_cpu", property(lambda self: card.device_of(self) == CPU), raising=False)
        within.setattr(Tensor, "to", _to(card), raising=False)
        within.setattr(Tensor, "cpu", lambda self: self.to(CPU), raising=False)
        within.setattr(Tensor, "cuda", lambda self, device=CARD: self.to(device), raising=False)
        within.setattr(Tensor, "numpy", _on_host_only(base.numpy, card), raising=False)
        within.setattr(Tensor, "__array__", _on_host_only(Tensor.__array__, card))
        within.setattr(Tensor, "__deepcopy__", _copied(Tensor.__deepcopy__, card))
        within.setattr(Tensor, "new_tensor", _beside(base.new_tensor, card), raising=False)
        within.setattr(Tensor, "tolist", _waiting(base.tolist, card), raising=False)
        for function in _device_constructors():
            holder = torch if getattr(torch, function.__name__, None) is function else None
            if holder is not None:
                within.setattr(holder, function.__name__, _factory(function, card))
        for name, module in list(sys.modules.items()):
            if name.startswith("unveil.") and getattr(module, "Generator", None) is torch.Generator:
                within.setattr(module, "Generator", CardGenerator)
        within.setattr(torch, "Generator", CardGenerator)
        within.setattr(torch.cuda, "synchronize", lambda device=None: None)
        within.setattr(torch.cuda, "reset_peak_memory_stats", lambda device=None: None)
        within.setattr(torch.cuda, "max_memory_allocated", lambda device=None: PEAK_MIB << 20)
        within.setattr(torch.cuda, "mem_get_info", lambda device=None: (1 << 34, 1 << 34))
        within.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
        within.setattr(torch.cuda, "get_device_name", lambda device=None: NAME)
        with card:
            yield card
