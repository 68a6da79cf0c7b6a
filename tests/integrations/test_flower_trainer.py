"""Flower's simulation engine as what trains a federation: the weights of the plain loop, and of Flower's own FedAvg."""

from __future__ import annotations

import copy
import gc
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from threading import Lock

import pytest
import torch
from torch import Generator, nn

pytest.importorskip("flwr", reason="Flower is not installed here; make test-integrations tests with it")
pytestmark = pytest.mark.filterwarnings("ignore")  # other people's

from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict  # noqa: E402
from flwr.clientapp import ClientApp  # noqa: E402
from flwr.serverapp import Grid, ServerApp  # noqa: E402
from flwr.serverapp.strategy import FedAvg  # noqa: E402
from flwr.simulation import run_simulation  # noqa: E402

from advice.made import CLASSES, advice, assessment, federation  # noqa: E402
from gate.made import NOTHING  # noqa: E402
from seeds import seeded  # noqa: E402
from unveil.advice import advising  # noqa: E402
from unveil.advice.advising import Listener, advise  # noqa: E402
from unveil.advice.federation import FederatedRun, Federation  # noqa: E402
from unveil.advice.flower.engine import local_ray  # noqa: E402
from unveil.advice.flower.messages import asking  # noqa: E402
from unveil.advice.round import own_update  # noqa: E402
from unveil.advice.trainers import PLAIN, trainer_named  # noqa: E402
from unveil.advice.training import train  # noqa: E402
from unveil.captures.flower import obfuscation_mod  # noqa: E402
from unveil.core.errors import UsageError  # noqa: E402
from unveil.core.update import Update  # noqa: E402
from unveil.obfuscations import parse  # noqa: E402
from unveil.obfuscations.none import Identity  # noqa: E402

FLOWER = r"Flower \d+\.\d+\S* on Ray \d+\.\d+\S*"


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """Find the files that Ray leaves open here, where warnings of other people's are ignored."""
    yield
    gc.collect()


def normalised(seed: int) -> nn.Module:
    """BatchNorm and dropout, and an attribute that Python's own pickle refuses."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Dropout(0.3), nn.Linear(8, CLASSES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=seeded(seed)) / 4)
    model.note = lambda: seed  # type: ignore[assignment]
    return model.eval()


def drawing() -> Federation:
    """A federation in which everything draws: the order of pictures, dropout, and what obfuscates buffers as well."""
    made = federation("fedavg:steps=2,lr=0.1,mode=train,buffers=obfuscated", batch=2, rounds=4)
    return replace(made, starts={seed: normalised(seed) for seed in (0, 1)})


def are_equal(one: FederatedRun, other: FederatedRun) -> bool:
    """Whether two trainings left the same weights in every phase, bit for bit, and the same figures."""
    figures = ("accuracy", "right", "wire_bits", "diverged")
    return one.weights.keys() == other.weights.keys() and all(
        [
            *(getattr(one, name) == getattr(other, name) for name in figures),
            *(
                torch.equal(tensor, other.weights[phase][name])
                for phase, held in one.weights.items()
                for name, tensor in held.items()
            ),
        ]
    )


@pytest.mark.parametrize("spec", ["none", "topk:density=0.5+gaussian:relative=1"])
def test_weights_do_not_depend_on_the_trainer(spec: str) -> None:
    asked, obfuscation = drawing(), parse(spec)
    with trainer_named("flower").ready(asked, obfuscation) as rounds_of:
        runs = [train(asked, obfuscation, seed=seed, rounds=rounds_of(seed)) for seed in (0, 1)]
    assert not are_equal(*runs)
    assert all(are_equal(run, train(asked, obfuscation, seed=run.seed)) for run in runs)


def test_flowers_own_fedavg_with_our_mod_reaches_the_same_weights() -> None:
    """Its clients send weights and its strategy averages them, which rounds otherwise."""
    asked, final = federation("fedavg:steps=2,lr=0.1", batch=2), {}

    def fit(message: Message, context: Context) -> Message:
        model, number = copy.deepcopy(asked.starts[0]), int(message.content["config"]["server-round"]) - 1
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        batch = asked.held(int(context.node_config["partition-id"]), number, seed=0)
        change = own_update(asked, model, batch, generator=Generator()).tensors
        sent = {name: Array((t - change[name]).numpy()) for name, t in model.state_dict().items()}
        metrics = MetricRecord({"num-examples": len(batch)})
        return Message(content=RecordDict({"arrays": ArrayRecord(sent), "metrics": metrics}), reply_to=message)

    def serve(grid: Grid, context: Context) -> None:
        first = ArrayRecord({name: Array(t.numpy()) for name, t in asked.starts[0].state_dict().items()})
        result = FedAvg(fraction_evaluate=0.0).start(grid=grid, initial_arrays=first, num_rounds=2)
        final.update(result.arrays.to_torch_state_dict())

    client, server = ClientApp(mods=[obfuscation_mod("topk:density=0.5")]), ServerApp()
    client.train()(fit)
    server.main()(serve)
    with local_ray(1):
        run_simulation(server, client, 2, backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}})
    ours = train(asked, parse("topk:density=0.5"), seed=0).weights["end"]  # before the last of three rounds
    assert final.keys() == ours.keys()
    assert all(torch.allclose(final[name], tensor, atol=1e-6) for name, tensor in ours.items())


def test_what_fails_in_a_client_is_said_as_in_the_plain_loop() -> None:
    class Broken(Identity):
        def __call__(self, update: Update, *, generator: Generator) -> Update:
            raise KeyError("broken")

    asked = federation()
    with pytest.raises(UsageError, match=r"^obfuscation none raised KeyError: 'broken' \(.*, line \d+\); correct it"):
        train(asked, Broken(), seed=0)
    with (
        pytest.raises(UsageError, match=r"^obfuscation none raised KeyError: 'broken' \(.*, line \d+\); correct it"),
        trainer_named("flower").ready(asked, Broken()) as rounds_of,
    ):
        train(asked, Broken(), seed=0, rounds=rounds_of(0))


def test_a_client_whose_process_ends_is_said() -> None:
    class Ending(Identity):
        def __call__(self, update: Update, *, generator: Generator) -> Update:
            os._exit(1)

    with (
        pytest.raises(UsageError, match=r"^Flower's simulation lost a client \(ActorDiedError\), as when memory runs"),
        trainer_named("flower").ready(federation(), Ending()) as rounds_of,
    ):
        train(federation(), Ending(), seed=0, rounds=rounds_of(0))


def test_a_model_that_cannot_be_sent_is_refused() -> None:
    asked = federation()
    asked.starts[0].lock = Lock()  # type: ignore[assignment]
    says = r"^the model cannot be sent to Flower's clients, .*; set trainer = \"plain\" under federation"
    with pytest.raises(UsageError, match=says), trainer_named("flower").ready(asked, parse("none")):
        pass


def test_weights_of_a_type_that_flower_cannot_send_are_refused() -> None:
    with pytest.raises(UsageError, match=r"^Flower cannot send the model's weights \(.*BFloat16.*\); set trainer = "):
        asking(nn.Linear(2, 2).bfloat16(), 0, seed=0)


def test_an_interrupted_advice_goes_on_with_another_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    leakage = assessment("fp16", NOTHING["psnr"]).leakage
    monkeypatch.setattr(advising, "audited", lambda *_, **__: leakage)
    asked = federation("fedavg:steps=2,lr=0.1", seeds=(0, 1))
    question = replace(advice(candidates=["fp16"]).question, federation=asked, trainer=trainer_named("flower"))

    def interrupted(obfuscation: str, seed: int, rounds: int) -> None:
        if (seed, rounds) == (1, 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        advise(question, tmp_path, listener=Listener(on_training=interrupted))
    assert not ray.is_initialized()
    trained: list[tuple[str, int, int]] = []
    listener = Listener(on_training=lambda *what: trained.append(what))
    found = advise(replace(question, trainer=PLAIN), tmp_path, listener=listener)
    assert [what for what in trained if what[0] == "none"] == [("none", 1, rounds) for rounds in (1, 2, 3)]
    first, second = found.trainers
    assert re.fullmatch(FLOWER, first)
    assert second == PLAIN.name


def test_ray_listens_on_the_loopback_interface_alone() -> None:
    psutil = pytest.importorskip("psutil")
    with local_ray(1):
        processes = [psutil.Process(), *psutil.Process().children(recursive=True)]
        connections = [connection for process in processes for connection in process.net_connections()]
        listening = {connection.laddr.ip for connection in connections if connection.status == psutil.CONN_LISTEN}
    assert listening
    assert all(ip_address(ip.removeprefix("::ffff:")).is_loopback for ip in listening)
