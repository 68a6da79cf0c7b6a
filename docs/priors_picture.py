"""Write docs/priors.webp: built-in pictures, rebuilt, and what the shipped enhancers make of them.

python docs/priors_picture.py
"""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image, ImageDraw

from unveil import attacks, enhancers, obfuscations
from unveil.audits.pipeline import play
from unveil.clients.client import Client
from unveil.clients.models import build_model
from unveil.clients.pictures import load_pictures
from unveil.core.pixels import to_bytes
from unveil.core.types import Images
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
    client = Client(model, pictures.images, torch.arange(COUNT))
    found = [("original", client.images)]
    for spec in OBFUSCATIONS:
        outcome = play(client, obfuscations.parse(spec), attacks.FeatureInversion())
        for name in (enhancers.NONE, *SHOWN):
            enhancer, done = enhancers.parse(name), outcome.attack
            if enhancer is not None:
                done, _ = enhance(
                    enhancer,
                    outcome.attack,
                    model=model,
                    update=outcome.received,
                    knowledge=outcome.knowledge,
                    class_names=NAMES,
                )
            images = align(client.images, done).images
            decibels = float(psnr(client.images, images).mean())
            found.append((f"{spec}\n{name}, {decibels:.1f} dB", images))
            if enhancer is not None and enhancer.uses_labels and spec == OBFUSCATIONS[-1]:
                alone = from_labels(enhancer, align(client.images, outcome.attack), class_names=NAMES)
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
            sheet.paste(Image.fromarray(to_bytes(image).permute(1, 2, 0).numpy()), (LABEL + j * (SIDE + GAP), top))
    sheet.save(Path(__file__).with_name("priors.webp"), quality=85, method=6)


if __name__ == "__main__":
    main()
