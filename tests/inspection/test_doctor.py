"""Each fault that stands in a file, planted by hand, is named with its numbers; sound files have none."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from unveil.captures.manifest import declared
from unveil.captures.recording import Recording
from unveil.inspection.doctor.checks import OF_EVIDENCE, OF_RECORD, TOLD, diagnose
from unveil.inspection.doctor.faults import Diagnosis, Fault, Untold


def normed() -> nn.Module:
    """A convolution without bias, BatchNorm and a head."""
    return nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 16, 3))


def plain() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 5), nn.Sigmoid(), nn.Linear(5, 3))


def record(network: nn.Module, changes: Mapping[str, Tensor], **facts: Any) -> Recording:
    """A recorded difference, with the network's weights before the round."""
    before = {name: tensor.clone() for name, tensor in network.state_dict().items() if name in changes}
    manifest = declared(**facts)
    return Recording(
        path=Path("update.safetensors"),
        digest="0" * 64,
        manifest=type(manifest)(**{**vars(manifest), "order": tuple(changes)}),
        before=before,
        delta=dict(changes),
    )


def ones(network: nn.Module, **others: Tensor) -> dict[str, Tensor]:
    """A change of 1 in every entry of the network's `state_dict`, but for those that are given."""
    return {name: torch.ones_like(t) for name, t in network.state_dict().items()} | others


def fault(found: Diagnosis, name: str) -> Fault:
    (one,) = [one for one in found.faults if one.name == name]
    return one


def test_missing_extra_and_misshapen_tensors_are_named() -> None:
    network = plain()
    changes = ones(network)
    del changes["1.bias"]
    found = diagnose(record(network, changes | {"ema": torch.ones(2)}), network)
    assert fault(found, "missing tensors").evidence == "1 of the network's 4 parameters were not sent: '1.bias'"
    assert fault(found, "extra tensors").evidence == "1 of the 4 sent tensors are none of the network's: 'ema'"
    other = diagnose(record(plain(), ones(plain()) | {"1.weight": torch.ones(5, 8)}), network)
    assert "'1.weight' has [5, 8], the network's [5, 9]" in fault(other, "extra tensors").evidence
    assert {one.name for one in other.untold} >= {"sign", "normalisation", "mode"}


def test_an_alphabetical_order_is_recognised() -> None:
    network = plain()  # weight before bias in the network, bias before weight in the alphabet
    arrays = {
        str(at): torch.ones_like(network.state_dict()[name]) for at, name in enumerate(sorted(network.state_dict()))
    }
    recording = record(network, arrays)
    found = fault(diagnose(recording, network), "reordered tensors")
    assert found.evidence.startswith(
        "4 of 4 tensors have another shape than the network's of the same name: '1.weight'"
    )
    assert "the alphabetical order of the names, '1.bias', '1.weight', '3.bias' and 1 more" in found.fix


@pytest.mark.parametrize(("count", "name"), [(3, "missing tensors"), (5, "extra tensors")])
def test_too_few_or_too_many_numbered_arrays(count: int, name: str) -> None:
    recording = record(plain(), {str(at): torch.ones(2) for at in range(count)})
    assert (
        f"{count} numbered arrays were sent, and the network has 4 tensors"
        in fault(diagnose(recording, plain()), name).evidence
    )


def test_a_difference_that_overflows_is_named() -> None:
    network = plain()
    changes = ones(network)
    changes["3.weight"][1, 2] = torch.inf
    found = fault(diagnose(record(network, changes), network), "non-finite values")
    assert found.evidence == "1 changes in 1 tensors are NaN or infinite, the first in '3.weight'"


def test_a_layer_that_stayed_is_frozen_and_a_bias_alone_is_not() -> None:
    network = plain()
    still = {"1.weight": torch.zeros(5, 9), "1.bias": torch.zeros(5)}
    found = diagnose(record(network, ones(network, **still)))
    assert fault(found, "frozen layers").evidence.startswith("1 of 2 layers have a change of exactly zero: '1.weight'")
    assert "frozen layers" not in diagnose(record(network, ones(network, **{"1.bias": torch.zeros(5)}))).names
    nothing = {name: torch.zeros_like(t) for name, t in network.state_dict().items()}
    assert fault(diagnose(record(network, nothing)), "frozen layers").severity == "error"


def test_zeros_of_an_obfuscation_are_no_frozen_layer() -> None:
    network = plain()
    still = {"1.weight": torch.zeros(5, 9), "1.bias": torch.zeros(5)}
    found = diagnose(record(network, ones(network, **still), obfuscation="topk:density=0.05"))
    assert "frozen layers" not in found.names
    assert (
        Untold(name="frozen layers", reason="behind this obfuscation a small layer may arrive as zeros") in found.untold
    )


def test_statistics_that_are_missing_or_did_not_move() -> None:
    network = normed()
    parameters = {name: torch.ones_like(p) for name, p in network.named_parameters()}
    found = diagnose(record(network, parameters, buffers="sent"), network)
    assert fault(found, "missing buffers").evidence.startswith("2 of the network's 2 running statistics were not sent")
    assert (fault(found, "missing buffers").severity, fault(found, "missing buffers").fact) == ("error", "buffers=kept")
    assert "missing buffers" not in diagnose(record(network, parameters, buffers="kept"), network).names
    kept = {name: t if "1." not in name else torch.zeros_like(t) for name, t in ones(network).items()}
    kept |= {"1.weight": torch.ones(4), "1.bias": torch.ones(4)}
    assert (
        "none of the 2 running statistics changed"
        in fault(diagnose(record(network, kept, mode="train")), "kept buffers").evidence
    )


def test_variances_that_no_batch_has_are_those_of_noise() -> None:
    network = normed()  # running variances of 1, and a momentum of 0.1: one step leaves at least 0.9 of them
    moved = ones(network, **{"1.running_var": torch.tensor([-1.5, -0.2, -0.05, 3.0])})
    found = fault(diagnose(record(network, moved), network), "obfuscated buffers")
    assert found.evidence == (
        "1 of 4 running variances are negative, 2 are smaller than BatchNorm's momentum allows; no batch has such a "
        "variance"
    )
    assert found.fact == "buffers=obfuscated"
    assert "obfuscated buffers" not in diagnose(record(network, ones(network)), network).names


@pytest.mark.parametrize(
    ("change", "facts", "fact"),
    [
        (torch.tensor(0.19), {}, "buffers=obfuscated"),
        (torch.tensor(-0.5), {}, "buffers=obfuscated"),
        (torch.tensor(0), {}, "buffers=obfuscated"),
        (torch.tensor(7), {"steps": 5}, "steps=7"),
    ],
)
def test_counters_that_no_training_leaves(change: Tensor, facts: Mapping[str, Any], fact: str) -> None:
    network = normed()
    found = diagnose(record(network, ones(network, **{"1.num_batches_tracked": change}), **facts), network)
    assert fault(found, "changed counters").fact == fact


def test_counters_that_go_down_are_a_reversed_sign() -> None:
    network = normed()
    changes = {name: -tensor for name, tensor in ones(network).items()}
    found = diagnose(record(network, changes), network)
    assert fault(found, "sign").fact == "sign=reversed"
    assert fault(found, "sign").evidence == "1 counters changed by -1, and counters never go down"
    assert not {"changed counters", "obfuscated buffers"} & found.names


def test_counters_of_training_are_no_fault() -> None:
    network = normed()
    changes = ones(network, **{"1.num_batches_tracked": torch.tensor(5)})
    assert "changed counters" not in diagnose(record(network, changes, steps=5)).names


def test_counters_contradict_eval_mode() -> None:
    network = normed()
    found = fault(diagnose(record(network, ones(network), mode="eval"), network), "mode")
    assert found.evidence.startswith("the manifest says eval mode, and BatchNorm's counters went up by 1")
    assert found.fact == "mode=train"


def test_dropout_that_ran_is_noted() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(9, 5), nn.Dropout(0.3), nn.Linear(5, 3))
    found = fault(diagnose(record(network, ones(network), mode="train"), network), "dropout")
    assert (found.severity, found.evidence) == (
        "note",
        "train mode, and the network has 1 layers of dropout: 2 (p = 0.3)",
    )
    assert "dropout" not in diagnose(record(network, ones(network), mode="eval"), network).names


def test_without_the_network_it_is_said_what_cannot_be_told() -> None:
    found = diagnose(record(plain(), ones(plain())))
    assert found.faults == ()
    reasons = {one.name: one.reason for one in found.untold}
    assert reasons["missing tensors"] == "it needs the network; name it with --model"
    assert set(reasons) >= {"sign", "learning rate", "loss reduction", "dropout", "normalisation", "carried momentum"}


def test_every_check_says_which_faults_it_finds() -> None:
    assert set(TOLD) == {check.__name__ for check in (*OF_RECORD, *OF_EVIDENCE)}
