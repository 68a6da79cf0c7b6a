"""The two apps of the federation. What unveil adds are the lines with `mods` in them."""

from pathlib import Path

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from task import MEAN, STD, Net, Pictures, load_data, train

from unveil.captures.flower import obfuscation_mod, recording_mod

BATCH_SIZE, LR = 8, 0.01


def client_app(recordings: Path, obfuscation: str, pictures: Pictures) -> ClientApp:
    """A client that obfuscates what it sends, and records it before and after that."""
    normalisation = {"mean": [MEAN] * 3, "std": [STD] * 3}
    mods = [
        recording_mod(recordings / "sent", keep_pictures=True, normalisation=normalisation),
        obfuscation_mod(obfuscation),
        recording_mod(recordings / "before", keep_pictures=True, normalisation=normalisation),
    ]
    app = ClientApp(mods=mods)

    @app.train()
    def fit(msg: Message, context: Context) -> Message:
        partition, partitions = (int(context.node_config[key]) for key in ("partition-id", "num-partitions"))
        config = msg.content["config"]
        torch.manual_seed(partition)
        net = Net()
        net.load_state_dict(msg.content["arrays"].to_torch_state_dict())
        loader = load_data(pictures, partition, partitions, int(config["server-round"]), BATCH_SIZE)
        loss = train(net, loader, epochs=1, lr=float(config["lr"]))
        metrics = MetricRecord({"train_loss": loss, "num-examples": len(loader.dataset)})
        return Message(content=RecordDict({"arrays": ArrayRecord(net.state_dict()), "metrics": metrics}), reply_to=msg)

    return app


def server_app(rounds: int, clients: int) -> ServerApp:
    """A server that averages, as in Flower's quickstart."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        torch.manual_seed(0)
        strategy = FedAvg(fraction_evaluate=0.0, min_available_nodes=clients)
        strategy.start(
            grid=grid,
            initial_arrays=ArrayRecord(Net().state_dict()),
            train_config=ConfigRecord({"lr": LR}),
            num_rounds=rounds,
        )

    return app
