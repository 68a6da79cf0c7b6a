"""Pairs of rough and true pictures, made by simulating clients on training pictures and attacking their updates."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from unveil import attacks, obfuscations
from unveil.audits.pipeline import play
from unveil.clients import training
from unveil.clients.client import Client
from unveil.clients.models import build_model
from unveil.core.errors import UsageError, writing
from unveil.core.files import MIB, read_bytes, reason_of, regular, shown, write_whole
from unveil.core.fingerprints import BYTES
from unveil.core.pixels import eight_bit, to_bytes
from unveil.core.types import Images
from unveil.enhancers.conditioning import HINTS, hints_of
from unveil.fitting.recipes import CLASSES, Recipe
from unveil.fitting.sources import HELD_OUT, Source, parted
from unveil.fitting.workers import share
from unveil.metrics.pixel import psnr

LARGEST = 1024 * MIB  # bytes of a file, at most; sixteen pairs of 128 pixels have 1.6 MiB
PICTURES, PLAN = "pictures.npy", "plan.json"  # files beside the pairs: the pictures' fingerprints; seed and recipes


@dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
    """Pictures of one size and an attack's reconstructions of them.

    Args:
        rough: The attack's pictures, in [0, 1].
        truth: The client's pictures, in [0, 1].
        hints: How much the update says about each picture; see `hints_of`.
        labels: The class of each picture in its source.
        made: How the pairs were made, plain JSON.
    """

    rough: Images
    truth: Images
    hints: Float[Tensor, "n hints"]
    labels: Int[Tensor, " n"]
    made: dict[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the pairs with 8 bits for each value, whole or not at all."""
        from safetensors.torch import save

        tensors = {"rough": to_bytes(self.rough), "truth": to_bytes(self.truth)}
        tensors |= {"hints": self.hints.contiguous(), "labels": self.labels.contiguous()}
        write_whole(path, save(tensors, {"made": json.dumps(self.made)}), private=True)

    @classmethod
    def load(cls, path: Path) -> Pairs:
        """Read a file that `write` wrote.

        Raises:
            UsageError: The file is missing, damaged, or no file of pairs.
        """
        from safetensors import safe_open

        fix = "delete it, and the same command makes it anew"
        regular(path, "", fix=fix, most=LARGEST)
        try:
            with safe_open(path, "pt") as file:
                held = {key: file.get_tensor(key) for key in ("rough", "truth", "hints", "labels")}
                made = json.loads(file.metadata()["made"])
            count, channels, side, _ = held["truth"].shape
            shapes: dict[str, tuple[int, ...]] = dict.fromkeys(("rough", "truth"), (count, 3, side, side))
            shapes |= {"hints": (count, HINTS), "labels": (count,)}
            if "obfuscation" not in made:
                raise ValueError("an old version wrote it")
            if channels != 3 or any(held[key].shape != shape for key, shape in shapes.items()):
                raise ValueError("its tensors do not go together")
            rough, truth = held["rough"].float() / 255, held["truth"].float() / 255
            return cls(rough=rough, truth=truth, hints=held["hints"], labels=held["labels"], made=made)
        except Exception as error:  # safetensors, torch and missing keys raise many kinds
            raise UsageError(f"{shown(path)} holds no pairs ({reason_of(error)}); {fix}") from None


def make_pairs(source: Source, recipes: Sequence[Recipe], *, seed: int, number: int) -> Pairs:
    """Simulate one client, attack its update, and return the attack's pictures with the true ones.

    Args:
        source: The training pictures.
        recipes: The recipes, of which the client follows one.
        seed: Seed of all clients.
        number: The client's number; it decides all of the client's randomness, together with the seed.
    """
    random = np.random.default_rng([seed, number])
    recipe = recipes[int(random.integers(len(recipes)))]
    played = int(random.integers(2**31))
    size = int(random.choice(recipe.sizes))
    rows = random.choice(len(source), min(recipe.batch, len(source)), replace=False)
    truth = cut(source.images(rows.tolist()), size, crop=random.random() < recipe.crops, random=random)
    truth = eight_bit(truth)  # as the pictures of a real client

    local = training.parse(str(random.choice(recipe.trainings)))
    obfuscation = obfuscations.parse(str(random.choice(recipe.obfuscations)))
    attack = attacks.parse(str(random.choice(recipe.attacks)))
    victim = str(random.choice(recipe.models))
    model = build_model(victim, image_shape=(3, size, size), classes=CLASSES, seed=int(random.integers(2**31)))
    labels = torch.from_numpy(random.choice(CLASSES, len(rows), replace=False))
    guess = play(Client(model, truth, labels, training=local), obfuscation, attack, seed=played).attack
    rough = eight_bit(guess.images)
    made = {
        "model": victim,
        "training": str(local),
        "obfuscation": str(obfuscation),
        "attack": str(attack),
        "size": size,
        "psnr": round(float(psnr(truth, rough).mean()), 3),
    }
    classes = torch.from_numpy(source.labels[rows])
    return Pairs(rough=rough, truth=truth, hints=hints_of(guess.evidence, len(rough)), labels=classes, made=made)


def cut(images: Images, size: int, *, crop: bool, random: np.random.Generator) -> Float[Tensor, "n c size size"]:
    """Bring pictures to one size, and mirror all of them or none at random.

    Args:
        images: Square pictures.
        size: Height and width of the result, pixels.
        crop: Cut out a part at a random place, the same for all, if the pictures are larger; else resize them.
        random: Source of randomness.
    """
    side = images.shape[-1]
    if crop and size < side:
        top, left = random.integers(side - size + 1, size=2)
        images = images[..., top : top + size, left : left + size]
    elif size != side:
        mode = {"mode": "area"} if size < side else {"mode": "bilinear", "align_corners": False}
        images = F.interpolate(images, size=(size, size), **mode)
    return images.flip(-1) if random.random() < 0.5 else images


def produce(
    source: Source,
    recipes: Sequence[Recipe],
    folder: Path,
    *,
    clients: int,
    seed: int,
    workers: int = 2,
    on_progress: Callable[[int], None] | None = None,
) -> None:
    """Make the pairs of all clients that the folder does not have yet, several clients at a time.

    Held-out clients (`held_out`) are simulated on pictures that no other client has.

    Args:
        source: The training pictures.
        recipes: The recipes, of which each client follows one.
        folder: Folder of the pairs, one file for each client; a later call continues in it.
        clients: Number of clients.
        seed: Seed of all clients.
        workers: Processes, each with one thread; two processes are faster than one with two threads.
        on_progress: Called with the number of finished clients, at the start too.

    Raises:
        UsageError: The folder cannot be written, or holds pairs of other pictures, recipes or another seed.
    """
    with writing(folder, "--work"):
        folder.mkdir(parents=True, exist_ok=True)
        _refuse_others(folder, source, recipes, seed)
    parts = parted(source, fewest=max(recipe.batch for recipe in recipes))
    wanted = [number for number in range(clients) if not _file(folder, number).is_file()]
    done = clients - len(wanted)
    if on_progress is not None:
        on_progress(done)

    def one_more() -> None:
        nonlocal done
        done += 1
        if on_progress is not None:
            on_progress(done)

    with writing(folder, "--work"):
        share(_make, (folder, parts, recipes, seed), wanted, workers=workers, done=one_more)


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.safetensors"


def held_out(number: int) -> bool:
    """Return whether a client's pairs are for validation and not for training."""
    return number % HELD_OUT == 0


def pictures_of(folder: Path) -> UInt8[Tensor, "pictures bytes"]:
    """Read the fingerprints of the source pictures of a folder's pairs.

    Raises:
        UsageError: The folder has no file of fingerprints, or a damaged one.
    """
    path = folder / PICTURES
    try:
        found = np.load(regular(path, "", fix="", most=LARGEST), allow_pickle=False)
        if found.dtype != np.uint8 or found.ndim != 2 or found.shape[1] != BYTES:
            raise ValueError("no fingerprints")
        return torch.from_numpy(found)
    except Exception as error:  # NumPy parses the header, and a damaged one raises many kinds
        reason = reason_of(error).rstrip("; ")
        raise UsageError(
            f"{shown(folder)} holds no pairs of `unveil fit` ({PICTURES}: {reason}); name the folder `pairs` of a "
            "training"
        ) from None


def _refuse_others(folder: Path, source: Source, recipes: Sequence[Recipe], seed: int) -> None:
    """Write fingerprints, seed and recipes beside the pairs; if the folder has pairs, compare with those beside them.

    Raises:
        UsageError: The folder has pairs of other pictures, recipes or another seed.
    """
    pictures = source.fingerprints
    plan = json.dumps({"seed": seed, "recipes": [asdict(recipe) for recipe in recipes]}, indent=1)
    if not any(folder.glob("*.safetensors")):
        content = io.BytesIO()
        np.save(content, pictures.numpy())
        write_whole(folder / PICTURES, content.getvalue(), private=True)
        write_whole(folder / PLAN, plan.encode())
    elif not torch.equal(pictures_of(folder), pictures) or _plan(folder) != plan:
        raise UsageError(
            f"{folder} holds pairs of other pictures, of another seed or of another setting; choose another --work, or "
            "delete it"
        )


def _plan(folder: Path) -> str:
    fix = "choose another --work, or delete it"
    return read_bytes(folder / PLAN, "", fix=fix, most=LARGEST).decode(errors="replace")


def _make(given: tuple[Path, tuple[Source, Source], Sequence[Recipe], int], number: int) -> None:
    """Make the pairs of one client in a process of its own, and write them."""
    folder, parts, recipes, seed = given
    torch.set_num_threads(1)
    make_pairs(parts[held_out(number)], recipes, seed=seed, number=number).write(_file(folder, number))
