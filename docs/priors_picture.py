"""Write docs/priors.png: built-in pictures, rebuilt, and what the shipped enhancers make of them.

python docs/priors_picture.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageDraw
from torch import Generator

from unveil import attacks, enhancers, obfuscations
from unveil.audits.threat_model import ThreatModel
from unveil.clients.client import Client
from unveil.clients.models import build_model
from unveil.clients.pictures import load_pictures
from unveil.clients.training import FedSGD
from unveil.core.types import Images, Update
from unveil.enhancers.consistency import enhance, from_labels
from unveil.metrics.alignment import align
from unveil.metrics.pixel import psnr

OBFUSCATIONS = ("qsgd:levels=2,norm=max", "topk:density=0.01")
COUNT, SIDE, GAP, LABEL = 7, 128, 6, 230
SHOWN = ("faithful", "sharp", "semantic")
NAMES = ("", "wild cat", "cup", "", "camera", "", "")  # what they are among Caltech-101's classes; most are not


def rows() -> list[tuple[str, Images]]:
    """A name and pictures for each row."""
    pictures = load_pictures("builtin", count=COUNT, size=SIDE)
    model = build_model("lenet", image_shape=(3, SIDE, SIDE), classes=100, seed=0)
    client = Client(
        name="built in",
        model_name="lenet",
        model=model,
        images=pictures.images,
        labels=torch.arange(COUNT),
        classes=100,
        training=FedSGD(),
        source="builtin",
    )
    found = [("original", client.images)]
    for spec in OBFUSCATIONS:
        obfuscation = obfuscations.parse(spec)
        received = obfuscation(Update(client.training(model, client.batch)), generator=Generator().manual_seed(1))
        knowledge = ThreatModel().knowledge(client, obfuscation)
        guess = attacks.parse("unveil")(model, received, knowledge, generator=Generator().manual_seed(2))
        for name in (enhancers.NONE, *SHOWN):
            enhancer, done = enhancers.parse(name), guess
            if enhancer is not None:
                done, _ = enhance(enhancer, guess, model=model, update=received, knowledge=knowledge, class_names=NAMES)
            images = align(client.images, done).images
            decibels = float(psnr(client.images, images).mean())
            found.append((f"{spec}\n{name}, {decibels:.1f} dB", images))
            if enhancer is not None and enhancer.uses_labels and spec == OBFUSCATIONS[-1]:
                alone = from_labels(enhancer, align(client.images, guess), class_names=NAMES)
                found.append((f"{name},\nfrom the label alone", alone))
    return found


def main() -> None:
    """One row of originals, then the attack's and the enhancers' pictures for each obfuscation."""
    shown = rows()
    sheet = Image.new("RGB", (LABEL + COUNT * (SIDE + GAP), len(shown) * (SIDE + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (name, images) in enumerate(shown):
        top = i * (SIDE + GAP)
        draw.text((4, top + SIDE // 2 - 16), name, fill="black", font_size=14)
        for j, image in enumerate(images):
            pixels = image.clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
            sheet.paste(Image.fromarray(pixels), (LABEL + j * (SIDE + GAP), top))
    sheet.save(Path(__file__).with_name("priors.png"))


if __name__ == "__main__":
    main()
