"""`unveil fit`: from training pictures to the weights of an enhancer and its card."""

from __future__ import annotations

import datetime
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from unveil.core.errors import UsageError, writing
from unveil.core.files import write_whole
from unveil.core.fingerprints import BYTES
from unveil.enhancers.generator import ClassConditionalGenerator
from unveil.enhancers.restorer import Restorer
from unveil.enhancers.weights import Network, load_weights, save_weights
from unveil.fitting.card import as_markdown
from unveil.fitting.degrade import Degrader
from unveil.fitting.generating import AuxiliaryClassifier, GeneratorTask
from unveil.fitting.loop import TrainingTask, train
from unveil.fitting.losses import Critic, alexnet_eyes, alexnet_likeness, lite0_likeness
from unveil.fitting.pairs import pictures_of, produce
from unveil.fitting.plan import Fit, Setting, Training
from unveil.fitting.restoring import RestorerTask
from unveil.fitting.sources import Source, apart_from, joined, known_from, parted, read_source
from unveil.fitting.store import PairStore

VICTIMS = 8  # random networks of the cheap degradation, for each size
SMALL = 64  # largest side, in pixels, for which a generator is narrow
NARROW, WIDE = (32, 56, 80), (64, 96, 128, 160)  # a generator's channels at each scale

PURPOSES: Mapping[Setting, str] = {
    "faithful": "Restores the pictures of an attack as near to the truth as it can: trained to PSNR.",
    "sharp": "Restores the pictures of an attack as people would want to see them: it also pleases another network and "
    "a critic, and invents grain where the update says nothing.",
    "semantic": "Draws what a picture shows from its rough pixels and its class, where pixels are gone. It invents: "
    "count only what exceeds the picture drawn from the label alone.",
}
LIMITS = (
    "Good for pictures like those it was trained on, rebuilt by attacks like those named above, of 32 to 256 pixels a "
    "side. What it adds is a guess from the training pictures, not evidence from an update."
)


OnProgress = Callable[[str, int, int, Mapping[str, float]], None]
"""(the activity, units done, units in all, scores by name)."""


def fit(plan: Fit, on_progress: OnProgress | None = None) -> dict[str, Any]:
    """Make pairs, train an enhancer, and write its weights with the card beside them.

    Args:
        plan: What is trained, and on what.
        on_progress: Called after each client and each training step.

    Returns:
        The card, with the checksum of the weights.

    Raises:
        UsageError: A source cannot be used, holds pictures for evaluation, or the disk is full.
    """
    report = on_progress or (lambda what, done, total, scores: None)
    # All inputs are read and checked first, before hours of work.
    source = _source(plan)
    begun = None if plan.begin is None else _begun(plan.begin)
    seen = _known_before(plan, source, begun)
    torch.manual_seed(plan.seed)  # for the initial weights; a command runs in a process of its own
    network, eyes = _network(plan, source, begun), _eyes(plan)
    with writing(plan.out.parent, "--out"):
        plan.out.parent.mkdir(parents=True, exist_ok=True)
        if plan.out.is_dir() or not os.access(plan.out.parent, os.W_OK):
            raise PermissionError(None, f"{plan.out.name} cannot be a file there")
    started, is_new = time.monotonic(), not plan.work.exists()
    folder, recipes = plan.work / "pairs", plan.recipes(source.side)
    what = f"pairs of {len(source)} pictures of {source.name}"  # names the source, so that a missing --evaluate shows
    produce(
        source,
        recipes,
        folder,
        clients=plan.clients,
        seed=plan.seed,
        on_progress=lambda done: report(what, done, plan.clients, {}),
    )
    store = PairStore([folder, *plan.pairs])
    task = _task(plan, source, store, network, eyes)
    first = "new weights" if begun is None else f"weights {begun.card['checksum']}"
    average = train(
        task,
        Training(steps=plan.steps, lr=plan.lr, seed=plan.seed, of=f"{first}, {plan.setting}, {len(store)} pairs"),
        plan.work,
        lambda step, scores: report("training", step, plan.steps, scores),
    )
    minutes = round((time.monotonic() - started) / 60)
    card = _card(plan, source, begun) | {
        "pairs": len(store),
        "minutes": minutes if is_new else f"{minutes} since it was last interrupted",
        "figures": task.judge(average)[0],
    }
    assert isinstance(average, Restorer | ClassConditionalGenerator)
    known = np.unique(torch.cat([seen, store.pictures]).numpy(), axis=0)
    return write(average, plan.out, seen=torch.from_numpy(known), card=card)


def write(
    network: Network, out: Path, *, seen: UInt8[Tensor, "pictures bytes"], card: dict[str, Any]
) -> dict[str, Any]:
    """Write the weights, and the card as a Markdown page beside them.

    Args:
        network: The trained network.
        out: The file of weights; the page has the same name with the suffix .md.
        seen: Fingerprints of the training pictures.
        card: The card, plain JSON.

    Returns:
        The card with the checksum of the weights.

    Raises:
        UsageError: The disk is full, or the folder cannot be written.
    """
    with writing(out.parent, "--out"):
        checksum = save_weights(network, out, seen=seen, card=card)
        page = as_markdown(out.stem, card, checksum=checksum)
        write_whole(out.with_suffix(".md"), page.encode(errors="backslashreplace"))  # the command may not be UTF-8
    return {**card, "checksum": checksum}


@dataclass(frozen=True)
class _Begun:
    """The network that a training starts from, the fingerprints of its training pictures, and its card."""

    network: Network
    seen: UInt8[Tensor, "pictures bytes"]
    card: Mapping[str, Any]


def _begun(path: Path) -> _Begun:
    """Read the weights to train further."""
    network, seen, card = load_weights(path)
    return _Begun(network.requires_grad_(True).train(), seen, card)


def _source(plan: Fit) -> Source:
    """Read the training pictures.

    Raises:
        UsageError: A source cannot be used or holds pictures for evaluation, or a generator has fewer than 2 classes.
    """
    is_complete = plan.setting == "semantic"  # a class of a few pictures cannot be drawn
    source = joined([read_source(path, size=plan.size, complete=is_complete) for path in plan.sources])
    if is_complete and len(source.class_names) < 2:
        raise UsageError(f"fit: {source.name} has one class, and a generator draws several; give a sub-folder a class")
    return apart_from(source, plan.evaluate, size=plan.size, leave_out=plan.leave_out)


def _known_before(plan: Fit, source: Source, begun: _Begun | None) -> UInt8[Tensor, "pictures bytes"]:
    """Return the fingerprints of all pictures that earlier trainings used: those of `plan.pairs` and `plan.begin`.

    Raises:
        UsageError: A picture for evaluation is among them, or pairs of a generator are of other pictures.
    """
    earlier = {folder: pictures_of(folder) for folder in plan.pairs}
    for folder, seen in earlier.items():
        if plan.setting == "semantic" and not torch.equal(seen, source.fingerprints):
            raise UsageError(
                f"fit: the pairs of {folder} are of other pictures, and may count other classes; leave them"
            )
    if begun is not None and plan.begin is not None:
        earlier[plan.begin] = begun.seen
    for where, seen in earlier.items():
        for path in plan.evaluate:
            both = known_from(path, seen, size=plan.size)
            if both:
                raise UsageError(
                    f"fit: {where} has learned from {len(both)} pictures of {path}, which is for evaluation; begin "
                    "without it"
                )
    return torch.cat([torch.zeros((0, BYTES), dtype=torch.uint8), *earlier.values()])


def _network(plan: Fit, source: Source, begun: _Begun | None) -> Network:
    """Return the network to train: that of `begun`, or a new one.

    Raises:
        UsageError: `begun` has a network of another kind, or a generator for other classes.
    """
    before = None if begun is None else begun.network
    if plan.setting == "semantic":
        network = before or ClassConditionalGenerator(
            names=source.class_names, widths=WIDE if source.side > SMALL else NARROW
        )
        if not isinstance(network, ClassConditionalGenerator) or network.names != source.class_names:
            raise UsageError(f"fit: {plan.begin} holds no generator for the classes of {source.name}")
        return network
    network = before or Restorer()
    if not isinstance(network, Restorer):
        raise UsageError(f"fit: {plan.begin} holds no restorer, which {plan.setting} is; give another --begin")
    return network


def _card(plan: Fit, source: Source, begun: _Begun | None) -> dict[str, Any]:
    """Return the entries of the card that are known before the training."""
    before = {"data": "pictures unknown", "licence": "not given"} | dict(begun.card if begun is not None else {})
    return {
        "purpose": PURPOSES[plan.setting],
        "data": source.name if begun is None else f"{source.name}, after {before['data']}",
        "licence": plan.licence if begun is None else f"{plan.licence}, and {before['licence']}",
        "pictures": len(source),
        "notes": list(source.notes),
        "steps": plan.steps,
        "seed": plan.seed,
        "date": datetime.date.today().isoformat(),
        "command": plan.command,
        "begun": before.get("checksum"),
        "judged": "clients with pictures of the same source that no other client had",
        "recipes": [asdict(recipe) for recipe in dict.fromkeys(plan.recipes(source.side))],
        "limits": LIMITS,
    }


def _task(plan: Fit, source: Source, store: PairStore, network: Network, eyes: Any) -> TrainingTask:
    """Return the training task for the network; `eyes` is what `_eyes` returns."""
    recipe = plan.recipes(source.side)[0]
    sizes = recipe.sizes if plan.setting == "semantic" else tuple(size for size in recipe.sizes if size <= 64)
    degrader = None
    if plan.begin is None:
        learned, _ = parted(source, fewest=recipe.batch)
        degrader = Degrader(learned, sizes=sizes, victims=VICTIMS, crops=recipe.crops, seed=plan.seed)
    if isinstance(network, ClassConditionalGenerator):
        classes = len(source.class_names)
        return GeneratorTask(
            network=network,
            store=store,
            likeness=alexnet_likeness(eyes),
            critic=Critic(classes=classes),
            reader=AuxiliaryClassifier(classes, alexnet_eyes(eyes)),
            degrader=degrader,
        )
    if plan.setting == "faithful":
        return RestorerTask(network=network, store=store, degrader=degrader)
    return RestorerTask(network=network, store=store, setting="sharp", degrader=degrader, likeness=eyes)


def _eyes(plan: Fit) -> Any:
    """Return what compares pictures in training.

    It is a network of the package `lpips` for `semantic`, a `Likeness` for `sharp`, and None for `faithful`.
    """
    from unveil.metrics.perceptual import network

    if plan.setting == "semantic":
        path = None if str(plan.lpips_weights) == "download" else plan.lpips_weights
        return network(path).requires_grad_(False)
    return lite0_likeness() if plan.setting == "sharp" else None
