"""Write docs/demo.png from the demo's results: `python docs/demo_picture.py unveil-demo`."""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw

from unveil.audits.results import read_trials

SIDE, GAP, LABEL = 96, 6, 200


def main() -> None:
    """One row of originals, then one row for each obfuscation."""
    folder = Path(sys.argv[1])
    trials = read_trials(folder)
    rows = [("original", trials[0].originals)] + [
        (trial.settings["obfuscation"], trial.final.images) for trial in trials
    ]
    width = LABEL + len(rows[0][1]) * (SIDE + GAP)
    sheet = Image.new("RGB", (width, len(rows) * (SIDE + GAP)), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (name, files) in enumerate(rows):
        top = i * (SIDE + GAP)
        draw.text((4, top + SIDE // 2 - 6), name, fill="black", font_size=13)
        for j, file in enumerate(files):
            picture = Image.open(folder / file).convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)
            sheet.paste(picture, (LABEL + j * (SIDE + GAP), top))
    sheet.save(Path(__file__).with_name("demo.png"))


if __name__ == "__main__":
    main()
