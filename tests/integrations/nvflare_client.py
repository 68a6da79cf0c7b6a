"""A training script such as users of NVFlare write; it records what it sends if it is given a folder."""

import sys

import nvflare.client as flare
import torch
from nvflare_net import Net
from torch import nn

from unveil.captures.nvflare import recorded

PICTURES = 8


def data(site: int) -> tuple[torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(100 + site)
    bytes_ = torch.randint(256, (PICTURES, 3, 8, 8), generator=rng)
    return bytes_.float() / 255, torch.randint(4, (PICTURES,), generator=rng)


def main() -> None:
    api = recorded(flare, sys.argv[1], keep_labels=True, keep_pictures=True)
    api.init()
    images, labels = data(int(api.get_site_name().rpartition("-")[2]))
    while api.is_running():
        received = api.receive()
        model = Net()
        model.load_state_dict({name: torch.as_tensor(array) for name, array in received.params.items()})
        optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
        loss = nn.CrossEntropyLoss(label_smoothing=0.1)
        model.train()
        for start in (0, 4):
            optimiser.zero_grad()
            loss(model(images[start : start + 4]), labels[start : start + 4]).backward()
            optimiser.step()
        api.send(flare.FLModel(params=model.state_dict(), metrics={"loss": 0.0}))


if __name__ == "__main__":
    main()
