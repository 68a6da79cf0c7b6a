"""One attack from Python, on built-in pictures: prints scores and writes what came back to one_attack.png.

python examples/one_attack.py
"""

from PIL import Image

import unveil as uv

client = uv.make_client(name="demo", model="lenet", images="builtin", size=64, batch=4, training=uv.FedSGD())
quantised = uv.obfuscations.QSGD(levels=16, norm="max")
outcome = uv.play(client, quantised, uv.attacks.FeatureInversion(), seed=0)
for name, values in uv.score(client.images, outcome.attack).items():
    print(f"{name:12}", *(f"{value:7.2f}" for value in values))

sheet = Image.new("RGB", (4 * 64, 2 * 64))
for line, pictures in enumerate((client.images, outcome.attack.images)):
    for place, picture in enumerate(pictures):
        pixels = (picture * 255).round().byte().permute(1, 2, 0).numpy()
        sheet.paste(Image.fromarray(pixels), (64 * place, 64 * line))
sheet.save("one_attack.png")
