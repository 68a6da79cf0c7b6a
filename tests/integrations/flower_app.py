"""An app such as users of Flower write: a small network with BatchNorm, generated pictures, FedAvg."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

PICTURES = 8


class Net(nn.Module):
    """A convolution, BatchNorm and a Linear layer, for pictures of 3 x 8 x 8 and 4 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(4 * 36, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def data(partition: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures and labels of one client."""
    rng = torch.Generator().manual_seed(100 + partition)
    bytes_ = torch.randint(256, (PICTURES, 3, 8, 8), generator=rng)
    return bytes_.float() / 255, torch.randint(4, (PICTURES,), generator=rng)


def fit(model: nn.Module, partition: int, lr: float) -> float:
    """Train for one epoch in batches of four; the order is the global random state's, which the app seeds."""
    torch.manual_seed(partition)
    loader = DataLoader(TensorDataset(*data(partition)), batch_size=4, shuffle=True)
    optimiser = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    loss = torch.tensor(0.0)
    model.train()
    for images, labels in loader:
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimiser.step()
    return float(loss)


def first_weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return Net().state_dict()


def client_app(mods: Sequence[Any], *, keep_input: bool = True) -> ClientApp:
    """A client of the message API; without `keep_input` it empties the record that it received."""
    app = ClientApp(mods=list(mods))

    @app.train()
    def train(message: Message, context: Context) -> Message:
        model = Net()
        model.load_state_dict(message.content["arrays"].to_torch_state_dict(keep_input=keep_input))
        loss = fit(model, int(context.node_config["partition-id"]), float(message.content["config"]["lr"]))
        metrics = MetricRecord({"train_loss": loss, "num-examples": PICTURES})
        return Message(
            content=RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message
        )

    return app


class Legacy(NumPyClient):
    """A client of the API before: a list of arrays in, a list out."""

    def __init__(self, partition: int) -> None:
        self.partition = partition

    def fit(self, parameters: list[Any], config: dict[str, Any]) -> tuple[list[Any], int, dict[str, Any]]:
        model = Net()
        names = list(model.state_dict())
        model.load_state_dict({name: torch.tensor(array) for name, array in zip(names, parameters, strict=True)})
        fit(model, self.partition, float(config["lr"]))
        return [tensor.numpy() for tensor in model.state_dict().values()], PICTURES, {}


def legacy_app(mods: Sequence[Any]) -> ClientApp:
    return ClientApp(lambda context: Legacy(int(context.node_config["partition-id"])).to_client(), mods=list(mods))


def server_app(strategy: FedAvg, rounds: int) -> ServerApp:
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(first_weights()),
            train_config=ConfigRecord({"lr": 0.01}),
            num_rounds=rounds,
        )

    return app
