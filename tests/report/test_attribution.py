from collections.abc import Callable

from unveil.core.records import Trial
from unveil.report import summarise
from unveil.report.attribution import attribution_charts
from unveil.report.kept_back import kept_back

MakeTrial = Callable[..., Trial]


def sent(trial: MakeTrial, psnr: dict[str, float]) -> list[Trial]:
    whole = trial(psnr=[30.0] * 4)
    return [whole, *(trial(obfuscation=f"layers:send={send}", psnr=[value] * 4) for send, value in psnr.items())]


def test_groups_stand_in_the_order_of_what_came_back_of_them_alone(trial: MakeTrial) -> None:
    values = {"conv1": 12.0, "no-conv1": 29.0, "head": 28.0, "no-head": 13.0, "bias": 14.0}
    (chart,) = attribution_charts(kept_back(summarise(sent(trial, values))))
    drawn = [chart.svg.index(f"{name}, ") for name in ("the whole update", "the head", "conv1")]
    assert drawn == sorted(drawn)
    assert "the biases" not in chart.svg  # they were not kept back
    assert "the head, it alone is sent: 28.0" in chart.svg
    assert "the head, all but it is sent: 13.0" in chart.svg
    assert [name for _, _, name in chart.legend] == ["everything is sent", "it alone is sent", "all but it is sent"]


def test_one_group_has_no_chart(trial: MakeTrial) -> None:
    assert attribution_charts(kept_back(summarise(sent(trial, {"head": 28.0, "no-head": 13.0, "bias": 14.0})))) == []
