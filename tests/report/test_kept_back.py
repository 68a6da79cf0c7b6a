from collections.abc import Callable
from dataclasses import replace

import pytest

from unveil.core.records import Trial
from unveil.report import summarise
from unveil.report.kept_back import kept_back

MakeTrial = Callable[..., Trial]
WHOLE = [30.0, 28.0, 26.0, 24.0]


def test_choices_stand_in_the_order_of_what_they_buy(trial: MakeTrial) -> None:
    trials = [
        trial(psnr=WHOLE, wire_bits=8_000_000),
        trial(obfuscation="layers:send=no-conv1/fc", psnr=[29.0, 28.5, 26.0, 23.5], wire_bits=6_000_000),
        trial(obfuscation="layers:send=no-head", psnr=[8.0, 12.0, 11.0, 9.0], ssim=[0.1] * 4, wire_bits=2_000_000),
        trial(obfuscation="layers:send=last", psnr=[20.0, 18.0, 16.0, 14.0], wire_bits=80_000),
        trial(obfuscation="layers:send=head+sign", psnr=WHOLE),
        trial(obfuscation="sign", psnr=WHOLE),
    ]
    (table,) = kept_back(summarise(trials))
    assert [choice.sent for choice in table.choices] == [
        "all but the head",
        "only the last layer",
        "all but conv1 and fc",
    ]
    assert [choice.spared for choice in table.choices] == pytest.approx([0.75, 0.99, 0.25])
    # A grey picture scores 11 dB, and pictures that came back worse than it hide no more than that: 19 + 16 + 15 + 13.
    assert [choice.bought.mean for choice in table.choices] == pytest.approx([63 / 4, 10, 1 / 4])
    assert [choice.buys_something for choice in table.choices] == [True, True, False]
    assert table.whole.is_baseline


def test_the_attack_to_which_most_came_back_counts(trial: MakeTrial) -> None:
    """What hides from one attack does not count as bought if another one finds it."""
    trials = [
        trial(psnr=WHOLE),
        trial(attack="dlg", psnr=[20.0] * 4),
        trial(obfuscation="layers:send=last", psnr=[11.0] * 4, ssim=[0.2] * 4),
        trial(obfuscation="layers:send=last", attack="dlg", psnr=[22.0] * 4),
        trial(obfuscation="layers:send=bias", psnr=[14.0] * 4, ssim=[0.2] * 4),
        trial(obfuscation="layers:send=bias", attack="dlg", psnr=[11.0] * 4, ssim=[0.2] * 4),
    ]
    (table,) = kept_back(summarise(trials))
    found = {choice.sent: (choice.row.attack, choice.bought.mean) for choice in table.choices}
    assert found == {"only the last layer": ("dlg", pytest.approx(5)), "only the biases": ("rog", pytest.approx(13))}


def test_there_is_no_table_of_one_choice_or_where_the_whole_update_gives_nothing_away(trial: MakeTrial) -> None:
    two = [trial(obfuscation=f"layers:send={send}", psnr=[12.0] * 4) for send in ("head", "last")]
    assert kept_back(summarise([trial(psnr=WHOLE), two[0]])) == []
    assert kept_back(summarise(two)) == []
    nothing = trial(psnr=[11.0] * 4, ssim=[0.2] * 4)
    assert kept_back(summarise([nothing, *two])) == []
    assert len(kept_back(summarise([trial(psnr=WHOLE), *two]))) == 1


def test_one_picture_has_no_interval_and_buys_nothing_that_is_sure(trial: MakeTrial) -> None:
    trials = [trial(psnr=[30.0])]
    trials += [trial(obfuscation=f"layers:send={send}", psnr=[12.0]) for send in ("head", "last")]
    (table,) = kept_back(summarise([replace(one, chance=[]) for one in trials]))
    assert [choice.buys_something for choice in table.choices] == [False, False]
