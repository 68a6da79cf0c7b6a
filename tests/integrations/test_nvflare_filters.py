"""NVFlare's own filters beside the obfuscations that they are understood as, and ours in their place."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("nvflare", reason="NVFlare is not installed here; make test-integrations tests with it")
pytestmark = pytest.mark.filterwarnings("ignore")  # other people's

from nvflare.apis.dxo import DXO, DataKind, from_shareable  # noqa: E402
from nvflare.apis.fl_constant import FLContextKey, ReservedKey  # noqa: E402
from nvflare.apis.fl_context import FLContext  # noqa: E402
from nvflare.app_common.filters.exclude_vars import ExcludeVars  # noqa: E402
from nvflare.app_common.filters.percentile_privacy import PercentilePrivacy  # noqa: E402
from nvflare.app_common.filters.svt_privacy import SVTPrivacy  # noqa: E402

from unveil.captures.nvflare import KeepingFilter, ObfuscationFilter, RecordingFilter, spec_of_filter  # noqa: E402
from unveil.captures.reading import read_recordings  # noqa: E402
from unveil.captures.recording import Recording  # noqa: E402
from unveil.core.errors import UsageError  # noqa: E402
from unveil.core.update import Update  # noqa: E402
from unveil.obfuscations import parse  # noqa: E402

DRAW = np.random.default_rng(0)
BEFORE = {"a.weight": (60, 50), "b.weight": (300,), "bn.running_var": (50,)}
DIFF = {name: DRAW.normal(0, 0.01, shape).astype(np.float32) for name, shape in BEFORE.items()}
BEFORE = {name: DRAW.normal(0, 1, shape).astype(np.float32) for name, shape in BEFORE.items()}


def passed(filters: list[Any], data: dict[str, Any], kind: str = DataKind.WEIGHT_DIFF, **meta: Any) -> dict[str, Any]:
    """What leaves a client through its output filters, after a `KeepingFilter` saw `BEFORE`."""
    context = FLContext()
    runner = SimpleNamespace(task_result_filters={"train/out": filters})
    for key, value in {FLContextKey.RUNNER: runner, FLContextKey.TASK_NAME: "train"}.items():
        context.set_prop(key, value, private=True, sticky=False)
    context.set_prop(ReservedKey.IDENTITY_NAME, "site-1", private=False, sticky=False)
    KeepingFilter(observe=True).process(DXO(DataKind.WEIGHTS, {**BEFORE}).to_shareable(), context)
    message = DXO(kind, {name: array.copy() for name, array in data.items()}, meta=meta).to_shareable()
    for one in filters:
        message = one.process(message, context)
    sent: dict[str, Any] = from_shareable(message).data
    return sent


def ours(spec: str, data: dict[str, Any]) -> dict[str, torch.Tensor]:
    update = Update({name: torch.from_numpy(array) for name, array in data.items()})
    return dict(parse(spec)(update, generator=torch.Generator().manual_seed(0)).tensors)


def recording_of(folder: Path) -> Recording:
    (found,) = read_recordings(folder)
    return found


@pytest.mark.parametrize("arguments", [{}, {"percentile": 90, "gamma": 0.5}, {"percentile": 33.3, "gamma": 0.012}])
@pytest.mark.parametrize("steps", [1, 4])
def test_percentile_privacy(arguments: dict[str, Any], steps: int, tmp_path: Path) -> None:
    filters = [PercentilePrivacy(**arguments), RecordingFilter(str(tmp_path))]
    sent = passed(filters, DIFF, NUM_STEPS_CURRENT_ROUND=steps)
    spec = spec_of_filter("PercentilePrivacy", arguments, steps=steps)
    for name, tensor in ours(spec, DIFF).items():
        np.testing.assert_allclose(sent[name], tensor.numpy(), rtol=3e-7 if steps > 1 else 0)
    recording = recording_of(tmp_path)
    assert recording.manifest.obfuscation.value == spec
    assert all(np.array_equal(recording.delta[name], array) for name, array in sent.items())
    assert all(np.array_equal(recording.before[name], array) for name, array in BEFORE.items())


@pytest.mark.parametrize("replace", [True, False])
@pytest.mark.parametrize("steps", [1, 4])
def test_svt_privacy(replace: bool, steps: int) -> None:
    """Random: the number of entries sent, and the spread of their noise, of NVFlare's filter and of ours."""
    arguments = {"fraction": 0.4, "noise_var": 3.0, "gamma": 0.003, "tau": 1e-4, "replace": replace}
    np.random.seed(0)  # NVFlare draws from the global generator
    found, spec = [], spec_of_filter("SVTPrivacy", arguments, steps=steps)
    held = np.concatenate([array.reshape(-1) for array in DIFF.values()]).clip(-0.003 * steps, 0.003 * steps)
    for sent in (passed([SVTPrivacy(**arguments)], DIFF, NUM_STEPS_CURRENT_ROUND=steps), ours(spec, DIFF)):
        flat = np.concatenate([np.asarray(array).reshape(-1) for array in sent.values()])
        noise = (flat - held)[flat != 0]
        found.append((int((flat != 0).sum()), float(np.abs(noise).mean())))
    (count, size), (own_count, own_size) = found
    assert own_count == pytest.approx(count, rel=0.2 if replace else 0.002)
    assert own_size == pytest.approx(size, rel=0.15)
    assert size == pytest.approx(2 * 0.003 * steps / 3.0, rel=0.15)


def test_a_budget_of_release_is_spread_over_the_entries() -> None:
    spec = spec_of_filter("SVTPrivacy", {"fraction": 0.5, "epsilon_release": 100.0, "gamma": 1.0}, entries=1000)
    assert spec == "svt:fraction=0.5,noise_var=0.2,gamma=1"
    data = {"a": np.zeros(1000, dtype=np.float32)}
    sent = passed([SVTPrivacy(fraction=0.5, epsilon_release=100.0, gamma=1.0)], data)["a"]
    assert float(np.abs(sent[sent != 0]).mean()) == pytest.approx(2 / 0.2, rel=0.15)


@pytest.mark.parametrize("kind", ["float16", "blockwise8", "float4", "normfloat4"])
def test_the_quantisers(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """NVFlare sends arrays to a GPU first; bitsandbytes computes them here too, but for some widths of matrices."""
    pytest.importorskip("bitsandbytes", reason="NVFlare's quantisers need bitsandbytes")
    from nvflare.app_opt.pt.quantization.dequantizer import ModelDequantizer
    from nvflare.app_opt.pt.quantization.quantizer import ModelQuantizer

    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    monkeypatch.setitem(BEFORE, "c.weight", DRAW.normal(0, 1, (64, 128)).astype(np.float32))
    data = {"b.weight": DIFF["b.weight"], "c.weight": DRAW.normal(0, 0.01, (64, 128)).astype(np.float32)}
    sent = passed([ModelQuantizer(kind), RecordingFilter(str(tmp_path)), ModelDequantizer()], data)
    spec = spec_of_filter("ModelQuantizer", {"quantization_type": kind})
    recording = recording_of(tmp_path)
    assert recording.manifest.obfuscation.value == spec
    for name, tensor in ours(spec, data).items():
        got = np.asarray(sent[name], dtype=np.float32).reshape(tensor.shape)  # (300,) comes back as (1, 300)
        assert np.array_equal(recording.delta[name].numpy(), got)
        same = np.isclose(got, tensor.numpy(), rtol=1e-6, atol=1e-9)
        # On a processor bitsandbytes rounds some of those entries down that lie half-way between two of 256 levels.
        assert same.mean() > (0.99 if kind == "blockwise8" else 1 - 1e-9)
        off, least = np.abs(got - data[name]), np.abs(tensor.numpy() - data[name])
        assert float((off - least).max()) < 1e-4 * np.abs(data[name]).max()


def test_excluded_variables_are_missing_and_need_no_model(tmp_path: Path) -> None:
    sent = passed([ExcludeVars("^a"), RecordingFilter(str(tmp_path))], DIFF)
    assert list(sent) == ["b.weight", "bn.running_var"]
    assert recording_of(tmp_path).manifest.obfuscation.value is None


@pytest.mark.parametrize("kind", [DataKind.WEIGHTS, DataKind.WEIGHT_DIFF])
@pytest.mark.parametrize("buffers", ["sent", "kept", "obfuscated"])
def test_our_filter_obfuscates_weights_and_differences_alike(kind: str, buffers: str, tmp_path: Path) -> None:
    after = {name: BEFORE[name] + DIFF[name] for name in DIFF}
    data = after if kind == DataKind.WEIGHTS else {name: after[name] - BEFORE[name] for name in DIFF}
    filters = [ObfuscationFilter("sign:scale=true", buffers=buffers), RecordingFilter(str(tmp_path))]
    sent = passed(filters, data, kind)
    change = {n: sent[n] - BEFORE[n] if kind == DataKind.WEIGHTS else sent[n] for n in DIFF}
    assert all(isinstance(array, np.ndarray) and array.dtype == np.float32 for array in sent.values())
    for name in ("a.weight", "b.weight"):
        wanted = np.sign(DIFF[name]) * np.abs(DIFF[name]).mean()
        np.testing.assert_allclose(change[name], wanted, atol=2e-6)
    own = {
        "sent": DIFF["bn.running_var"],
        "kept": 0 * DIFF["bn.running_var"],
        "obfuscated": np.sign(DIFF["bn.running_var"]) * np.abs(DIFF["bn.running_var"]).mean(),
    }
    np.testing.assert_allclose(change["bn.running_var"], own[buffers], atol=2e-6)
    facts = recording_of(tmp_path).manifest
    assert facts.obfuscation.value == "sign:scale=true"
    assert facts.buffers.value == (None if buffers == "sent" else buffers)


def test_what_cannot_be_obfuscated_is_never_sent() -> None:
    message = DXO(DataKind.WEIGHTS, dict(DIFF)).to_shareable()
    with pytest.raises(UsageError, match="add a KeepingFilter to its input filters, or let it send differences"):
        ObfuscationFilter("fp16").process(message, FLContext())


def test_what_is_not_known_of_other_filters_stays_unknown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Other(ExcludeVars):
        """A filter of somebody else."""

    passed([Other("^a"), RecordingFilter(str(tmp_path / "other"))], DIFF)
    passed([PercentilePrivacy(), RecordingFilter(str(tmp_path / "weights"))], BEFORE, DataKind.WEIGHTS)
    assert [recording_of(tmp_path / name).manifest.obfuscation.value for name in ("other", "weights")] == [None, None]
    assert "it is not known what the filter Other does" in caplog.text
    assert "PercentilePrivacy worked on weights, and not on their difference" in caplog.text


def test_without_the_weights_before_a_warning_says_which_filter_to_add(caplog: pytest.LogCaptureFixture) -> None:
    context, message = FLContext(), DXO(DataKind.WEIGHT_DIFF, dict(DIFF)).to_shareable()
    assert RecordingFilter("unused").process(message, context) == message
    assert "add a KeepingFilter to the client's input filters" in caplog.text
