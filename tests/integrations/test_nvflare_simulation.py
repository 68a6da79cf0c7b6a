"""NVFlare's simulator, for real: what the recorders write of two rounds of two clients."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("nvflare", reason="NVFlare is not installed here; make test-integrations tests with it")
pytestmark = pytest.mark.filterwarnings("ignore")  # other people's

from nvflare.app_opt.pt.recipes.fedavg import FedAvgRecipe  # noqa: E402
from nvflare.recipe.sim_env import SimEnv  # noqa: E402

from unveil.captures.nvflare import obfuscate, record  # noqa: E402
from unveil.captures.reading import read_recordings  # noqa: E402
from unveil.captures.recording import Recording  # noqa: E402

HERE = Path(__file__).parent
NAMES = [f"round-{number}_site-{site}.safetensors" for number in (0, 1) for site in (1, 2)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the job was run, with the recorded updates in `api`, `before` and `after`, and the exported job."""
    place = tmp_path_factory.mktemp("nvflare")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(HERE)
        patch.syspath_prepend(str(HERE))
        from nvflare_net import Net

        recipe: Any = FedAvgRecipe(
            name="job",
            model=Net(),
            min_clients=2,
            num_rounds=2,
            train_script="nvflare_client.py",
            train_args=str(place / "api"),
        )
        record(recipe, place / "before", keep_labels=True, classes=4)
        obfuscate(recipe, "topk:density=0.1", seed=0)
        record(recipe, place / "after")
        recipe.export(str(place / "export"))
        recipe.execute(SimEnv(num_clients=2, workspace_root=str(place / "workspace")))
    return place


@pytest.fixture(scope="module")
def recorded(place: Path) -> dict[str, list[Recording]]:
    return {name: read_recordings(place / name) for name in ("api", "before", "after")}


@pytest.mark.parametrize("where", ["api", "before", "after"])
def test_every_round_of_every_client_is_recorded(where: str, recorded: dict[str, list[Recording]]) -> None:
    assert [recording.path.name for recording in recorded[where]] == NAMES
    assert all(recording.path.stat().st_mode & 0o777 == 0o600 for recording in recorded[where])


def test_filter_and_client_api_record_the_same_bits(recorded: dict[str, list[Recording]]) -> None:
    for by_filter, by_api in zip(recorded["before"], recorded["api"], strict=True):
        assert by_filter.manifest.order == by_api.manifest.order
        assert any(bool(change.any()) for change in by_api.changes.values())
        for part in ("before", "client", "changes"):
            first, second = getattr(by_filter, part), getattr(by_api, part)
            assert list(first) == list(second)
            assert all(torch.equal(first[name], second[name]) for name in first), part


def test_the_manifest_says_what_the_script_does(recorded: dict[str, list[Recording]]) -> None:
    expected = {
        "framework": "nvflare",
        "framework_version": "2.9.0",
        "model": "nvflare_net:Net",
        "client": "site-2",
        "round": 1,
        "learning_rate": 0.01,
        "optimiser": "sgd",
        "momentum": 0.9,
        "nesterov": True,
        "steps": 2,
        "epochs": 1,
        "batch_size": 4,
        "examples": 8,
        "loss": "cross_entropy",
        "loss_reduction": "mean",
        "label_smoothing": 0.1,
        "mode": "train",
        "buffers": "sent",
        "image_shape": (3, 8, 8),
        "classes": 4,
    }
    for where in ("api", "before", "after"):
        facts = recorded[where][3].manifest.facts
        assert {name: facts[name].value for name in expected} == expected
        assert facts["learning_rate"].source == "observed"
    assert recorded["before"][3].manifest.classes.source == "declared"
    assert {where: recorded[where][3].manifest.obfuscation.value for where in recorded} == {
        "api": None,
        "before": None,
        "after": "topk:density=0.1",
    }


def test_the_filter_of_ours_obfuscates_what_leaves(recorded: dict[str, list[Recording]]) -> None:
    for sent, made in zip(recorded["after"], recorded["before"], strict=True):
        for name, change in sent.changes.items():
            if name.rpartition(".")[2] in ("running_mean", "running_var", "num_batches_tracked"):
                assert torch.equal(change, made.changes[name])
                continue
            kept = change != 0
            # What moved by less than float32 resolves of the weight is sent without a change.
            most = -(-change.numel() // 10)
            assert (most if change.numel() > 100 else 0) <= int(kept.sum()) <= most
            torch.testing.assert_close(change[kept], made.changes[name][kept], rtol=0, atol=1e-6)
            if bool(kept.any()):
                assert float(made.changes[name][~kept].abs().max()) <= float(change[kept].abs().min()) + 1e-6


def test_the_second_round_starts_at_the_mean_of_the_first(recorded: dict[str, list[Recording]]) -> None:
    first, second = recorded["after"][:2], recorded["after"][2:]
    for name, weight in second[0].before.items():
        if weight.is_floating_point():
            mean = (first[0].client[name].double() + first[1].client[name].double()) / 2
            assert torch.allclose(weight.double(), mean, atol=1e-6)


def test_pictures_are_kept_for_scores(recorded: dict[str, list[Recording]]) -> None:
    from unveil.audits.recorded.truth import load_truth

    recording = recorded["api"][1]
    rng = torch.Generator().manual_seed(102)
    images = torch.randint(256, (8, 3, 8, 8), generator=rng).float() / 255
    torch.testing.assert_close(load_truth(recording.path.with_suffix(""), (3, 8, 8)), images)


def test_an_exported_job_names_the_filters_and_holds_no_copy_of_unveil(place: Path) -> None:
    app = place / "export" / "job" / "app"
    config = json.loads((app / "config" / "config_fed_client.json").read_text())
    (filters,) = config["task_result_filters"]
    assert filters["tasks"] == ["train"]
    assert [one["path"].rpartition(".")[2] for one in filters["filters"]] == [
        "RecordingFilter",
        "ObfuscationFilter",
        "RecordingFilter",
    ]
    assert filters["filters"][0]["args"]["declared"] == {"classes": 4}
    assert sorted(path.name for path in (app / "custom").rglob("*.py")) == ["nvflare_client.py", "nvflare_net.py"]
