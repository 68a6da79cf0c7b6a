"""Training on a handful of tiny pictures: that it learns, goes on where it stopped, and refuses what it must."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seeds import seeded, shifted
from unveil.attacks.dead_leaves import dead_leaves
from unveil.core.errors import UsageError
from unveil.core.pixels import eight_bit, to_bytes
from unveil.core.reconstruction import FeatureFit
from unveil.enhancers.conditioning import hints_of
from unveil.enhancers.generator import ClassConditionalGenerator
from unveil.enhancers.learned import Learned
from unveil.enhancers.restorer import Restorer
from unveil.fitting import fit as fitting
from unveil.fitting.degrade import Degrader
from unveil.fitting.fit import fit
from unveil.fitting.generating import AuxiliaryClassifier, GeneratorTask, withheld
from unveil.fitting.loop import CHECKPOINT, CURVE, train
from unveil.fitting.losses import Critic
from unveil.fitting.pairs import PICTURES, Pairs, make_pairs, produce
from unveil.fitting.plan import Fit, Training
from unveil.fitting.recipes import Recipe
from unveil.fitting.restoring import RestorerTask, restore
from unveil.fitting.sources import Source, apart_from, joined, parted, read_source
from unveil.fitting.store import PairStore
from unveil.metrics.pixel import psnr

SIDE = 16
TINY = Recipe(obfuscations=("qsgd:levels=4,norm=max",), attacks=("unveil:steps=2",), sizes=(SIDE,), crops=0.5, batch=4)


def some_source(count: int = 12, seed: int = 0, side: int = 32, name: str = "leaves") -> Source:
    images = dead_leaves(count, (3, side, side), generator=seeded(seed))
    return Source(name, to_bytes(images).permute(0, 2, 3, 1).numpy(), np.arange(count) % 3, ("a", "b", "c"))


def as_folder(source: Source, folder: Path) -> Path:
    for number, (pixels, label) in enumerate(zip(source.pixels, source.labels, strict=True)):
        (folder / source.class_names[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / source.class_names[label] / f"{number}.png")
    return folder


def noisy_pairs(seed: int, count: int = 16) -> Pairs:
    generator = seeded(seed)
    truth = eight_bit(dead_leaves(count, (3, SIDE, SIDE), generator=generator))
    rough = eight_bit(truth + 0.1 * torch.randn(truth.shape, generator=generator))
    evidence = FeatureFit(noise=torch.full((count,), 0.1), miss=torch.full((count,), 0.1))
    made = {"obfuscation": "gaussian", "size": SIDE}
    return Pairs(rough=rough, truth=truth, hints=hints_of(evidence, count), labels=torch.arange(count) % 3, made=made)


@pytest.fixture
def store(tmp_path: Path) -> PairStore:
    folder = tmp_path / "pairs"
    folder.mkdir()
    for number in range(3):
        noisy_pairs(number).write(folder / f"{number}.safetensors")
    np.save(folder / PICTURES, np.zeros((0, 32), np.uint8))
    return PairStore([folder])


def small_restoring(store: PairStore) -> RestorerTask:
    torch.manual_seed(shifted(0))
    return RestorerTask(network=Restorer(widths=(8, 12), blocks=1), store=store, batch=8)


@pytest.mark.slow
def test_a_restorer_learns_to_take_noise_away(store: PairStore, tmp_path: Path) -> None:
    network = train(small_restoring(store), Training(steps=500, lr=3e-3, every=500), tmp_path / "work")
    (held_out,) = store.validation
    before, after = psnr(held_out.truth, held_out.rough), psnr(held_out.truth, restore(network, held_out).clamp(0, 1))
    assert float((after - before).mean()) > 1.0
    with torch.no_grad():
        _, expected = network(held_out.rough, held_out.hints)
    error = (restore(network, held_out) - held_out.truth).square().mean().sqrt()
    assert 0.5 < float(expected.mean() / error) < 2  # it knows about how far it is off


@pytest.mark.slow
def test_a_training_that_was_interrupted_ends_where_it_would_have_ended(store: PairStore, tmp_path: Path) -> None:
    plan = Training(steps=6, every=3)
    whole = train(small_restoring(store), plan, tmp_path / "whole")

    def stop(step: int, scores: object) -> None:
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(small_restoring(store), plan, tmp_path / "parts", stop)
    resumed = train(small_restoring(store), plan, tmp_path / "parts")
    for one, other in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    lines = (tmp_path / "parts" / CURVE).read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 6]
    assert (tmp_path / "parts" / "look-000006.png").is_file()


@pytest.mark.slow
def test_a_checkpoint_of_something_else_is_refused(store: PairStore, tmp_path: Path) -> None:
    (tmp_path / CHECKPOINT).write_bytes(b"not a checkpoint")
    with pytest.raises(UsageError, match="not a checkpoint of this training"):
        train(small_restoring(store), Training(steps=1), tmp_path)
    with pytest.raises(UsageError, match="at least 1 step"):
        Training(steps=0)
    with pytest.raises(UsageError, match="lr > 0"):
        Training(steps=1, lr=0)


@pytest.mark.slow
def test_a_checkpoint_of_another_training_is_refused(store: PairStore, tmp_path: Path) -> None:
    train(small_restoring(store), Training(steps=2, of="48 pairs"), tmp_path)
    for other in (Training(steps=2, of="64 pairs"), Training(steps=3, of="48 pairs")):
        with pytest.raises(UsageError, match=r"not a checkpoint of this training \((of|steps) was"):
            train(small_restoring(store), other, tmp_path)


def test_a_folder_that_cannot_be_written_is_named(store: PairStore, tmp_path: Path) -> None:
    (tmp_path / CURVE).mkdir()
    with pytest.raises(UsageError, match=r"cannot write to .* choose another folder with --work"):
        train(small_restoring(store), Training(steps=1), tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"cannot write to .* choose another folder with --work"):
        produce(some_source(), [TINY], tmp_path / "file", clients=2, seed=0)


@pytest.mark.slow
def test_a_sharp_restorer_also_has_a_critic_and_a_generator_a_reader(store: PairStore, tmp_path: Path) -> None:
    def unlike(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return (a - b).abs().flatten(1).mean(1)

    def eyes(images: torch.Tensor) -> list[torch.Tensor]:
        return [images, images.square()]

    sharp = RestorerTask(
        network=Restorer(widths=(8, 12), blocks=1),
        store=store,
        setting="sharp",
        likeness=unlike,
        critic=Critic(widths=(8, 8)),
    )
    drawing = GeneratorTask(
        network=ClassConditionalGenerator(names=("a", "b", "c"), widths=(8, 12), blocks=1),
        store=store,
        likeness=unlike,
        critic=Critic(classes=3, widths=(8, 8)),
        reader=AuxiliaryClassifier(3, eyes),
        batch=8,
    )
    for task in (sharp, drawing):
        kept = {name: [p.clone() for p in net.parameters()] for name, net in task.networks.items()}
        train(task, Training(steps=2, every=2), tmp_path / type(task).__name__)
        for name, net in task.networks.items():
            assert any(not torch.equal(a, b) for a, b in zip(kept[name], net.parameters(), strict=True)), name


@pytest.mark.slow
def test_some_pictures_and_some_classes_are_withheld_from_a_generator() -> None:
    pairs = noisy_pairs(0, count=400)
    rough, hints, classes = withheld(pairs, np.random.default_rng(shifted(0)))
    blank = (rough == 0.5).flatten(1).all(1)
    assert 0.04 < float(blank.float().mean()) < 0.16
    assert 0.08 < float((classes == 0).float().mean()) < 0.22
    assert not (blank & (classes == 0)).any()  # from nothing at all nothing is to be learned
    assert not hints[blank].any()
    labelled = classes > 0
    assert torch.equal(classes[labelled], pairs.labels[labelled] + 1)


@pytest.mark.slow
def test_pairs_are_of_the_recipe_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    source = some_source()
    one, again, other = (make_pairs(source, [TINY], seed=1, number=n) for n in (0, 0, 1))
    assert torch.equal(one.rough, again.rough)
    assert not torch.equal(one.truth, other.truth)
    assert one.rough.shape == one.truth.shape == (4, 3, SIDE, SIDE)
    assert one.hints[:, 2].tolist() == [1.0] * 4
    assert one.made["obfuscation"] == "qsgd:levels=4,norm=max"
    one.write(tmp_path / "pairs.safetensors")
    kept = Pairs.load(tmp_path / "pairs.safetensors")
    assert torch.equal(kept.rough, one.rough)
    assert kept.made == one.made


@pytest.mark.slow
def test_clients_that_are_there_are_not_simulated_again(tmp_path: Path) -> None:
    seen: list[int] = []
    produce(some_source(), [TINY], tmp_path, clients=2, seed=0, workers=1, on_progress=seen.append)
    assert seen == [0, 1, 2]
    (tmp_path / "00001.safetensors").unlink()
    kept = (tmp_path / "00000.safetensors").stat().st_mtime_ns
    produce(some_source(), [TINY], tmp_path, clients=2, seed=0, workers=1, on_progress=seen.append)
    assert seen == [0, 1, 2, 1, 2]
    assert (tmp_path / "00000.safetensors").stat().st_mtime_ns == kept


@pytest.mark.slow
def test_pairs_of_other_pictures_are_not_taken_for_these(tmp_path: Path) -> None:
    made = {"clients": 2, "seed": 0, "workers": 1}
    produce(some_source(), [TINY], tmp_path, **made)
    for source, recipe, seed in (
        (some_source(seed=5), TINY, 0),
        (some_source(), replace(TINY, batch=3), 0),
        (some_source(), TINY, 1),
    ):
        with pytest.raises(UsageError, match="pairs of other pictures, of another seed or of another setting"):
            produce(source, [recipe], tmp_path, **{**made, "seed": seed})


@pytest.mark.slow
def test_held_out_clients_have_pictures_of_their_own(tmp_path: Path) -> None:
    source = some_source(side=SIDE)  # neither cut nor reduced: the pairs' pictures are the source's own
    produce(source, [replace(TINY, crops=0)], tmp_path, clients=4, seed=0, workers=1)
    store = PairStore([tmp_path])
    trained = {picture.numpy().tobytes() for group in store.groups.values() for picture in group.truth}
    trained |= {picture.flip(-1).numpy().tobytes() for group in store.groups.values() for picture in group.truth}
    (held_out,) = store.validation
    assert not trained & {picture.numpy().tobytes() for picture in to_bytes(held_out.truth)}
    assert len(store.pictures) == 12


@pytest.mark.slow
def test_a_picture_is_held_out_whatever_stands_beside_it() -> None:
    some, more = some_source(60, side=16), some_source(60, seed=3, side=16)
    learned, held = parted(some, fewest=20)
    assert (len(learned), len(held)) == (40, 20)
    assert len(parted(some, fewest=99)[1]) == 30
    _, both = parted(joined([more, some]), fewest=0)
    alone = {p.tobytes() for source in (some, more) for p in parted(source, fewest=0)[1].pixels}
    assert {p.tobytes() for p in both.pixels} == alone


def test_what_is_no_folder_of_pairs_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no pairs of `unveil fit`"):
        PairStore([tmp_path])
    np.save(tmp_path / PICTURES, np.zeros((0, 32), np.uint8))
    with pytest.raises(UsageError, match="pairs of at least 2 clients"):
        PairStore([tmp_path])
    noisy_pairs(0).write(tmp_path / "00000.safetensors")
    content = (tmp_path / "00000.safetensors").read_bytes()
    (tmp_path / "00001.safetensors").write_bytes(content[:-9])
    with pytest.raises(UsageError, match=r"00001\.safetensors holds no pairs"):
        PairStore([tmp_path])


@pytest.mark.slow
def test_the_cheap_degradation_is_worse_the_more_noise_there_is() -> None:
    degrader = Degrader(some_source(side=48), sizes=(48,), victims=1, crops=0.5, seed=0)
    drawn = [degrader.draw(4, random=np.random.default_rng(shifted(n))) for n in range(30)]
    noise = torch.tensor([float(pairs.hints[0, 0]) for pairs in drawn])
    decibels = torch.tensor([float(psnr(pairs.truth, pairs.rough).mean()) for pairs in drawn])
    quiet = noise < -0.7  # a tiny decoder is no better without any noise than with a little
    assert float(decibels[~quiet].mean()) < float(decibels[quiet].mean())


def test_sources_are_folders_and_npz_files(tmp_path: Path) -> None:
    import io

    source = some_source()
    folder = read_source(as_folder(source, tmp_path / "pictures"), size=32)
    assert len(folder) == 12
    assert folder.class_names == ("a", "b", "c")
    flat = tmp_path / "flat"
    flat.mkdir()
    (tmp_path / "pictures" / "a" / "0.png").rename(flat / "0.png")
    assert len(read_source(flat, size=32)) == 1
    (tmp_path / "pictures" / "c").rename(flat / "c")
    both = read_source(flat, size=32)
    assert both.class_names == ("c", "flat")
    assert both.labels.tolist() == [0, 0, 0, 0, 1]
    assert np.array_equal(both.pixels[-1], source.pixels[0])
    blobs = []
    for pixels in source.pixels:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        blobs.append(buffer.getvalue())
    offsets = np.cumsum([0, *map(len, blobs)])
    path = tmp_path / "pictures.npz"
    split = np.arange(12) % 2
    np.savez(
        path,
        data=np.frombuffer(b"".join(blobs), np.uint8),
        offsets=offsets,
        labels=source.labels,
        classes=np.array(source.class_names),
        split=split,
    )
    read = read_source(path)
    assert np.array_equal(read.pixels, source.pixels[split == 0])
    assert np.array_equal(read_source(path, split=1).labels, source.labels[split == 1])
    whole = {**np.load(path), "full_class": np.array([2, 0])}
    np.savez(tmp_path / "whole.npz", **whole)
    complete = read_source(tmp_path / "whole.npz", complete=True)
    assert complete.class_names == ("c", "a")
    assert np.array_equal(complete.labels, np.array([{2: 0, 0: 1}[c] for c in source.labels if c != 1]))
    assert np.array_equal(complete.pixels, source.pixels[source.labels != 1])
    content = path.read_bytes()
    held = dict(np.load(path))
    for damaged in (b"nonsense", b"", content[:-200], content[: len(content) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match=r"pictures\.npz cannot be read .* give a folder of pictures or an .npz"):
            read_source(path)
    for wrong in ({"labels": source.labels + 7}, {"split": split[:5]}, {"sheet": 0}):
        np.savez(path, **{**held, **wrong})
        with pytest.raises(UsageError, match="cannot be read as pictures"):
            read_source(path)
    np.savez(path, **{**held, "split": split * 0})
    with pytest.raises(UsageError, match="no picture of part 1"):
        read_source(path, split=1)
    with pytest.raises(UsageError, match="does not exist"):
        read_source(tmp_path / "absent.npz")


def test_pictures_for_evaluation_are_refused_or_left_out(tmp_path: Path) -> None:
    source = some_source()
    held = as_folder(source.only([1, 4]), tmp_path / "held")
    with pytest.raises(UsageError, match="2 training pictures of leaves are also in"):
        apart_from(source, [held], size=32)
    rest = apart_from(source, [held], size=32, leave_out=True)
    assert np.array_equal(rest.pixels, np.delete(source.pixels, [1, 4], axis=0))
    every = as_folder(source, tmp_path / "every")
    with pytest.raises(UsageError, match="every training picture is also for evaluation"):
        apart_from(source, [every], size=32, leave_out=True)
    other = as_folder(some_source(seed=5), tmp_path / "other")
    assert len(apart_from(source, [other], size=32)) == 12


def test_joined_sources_have_one_size_and_one_list_of_classes() -> None:
    one = some_source(4)
    two = Source("more", some_source(3, seed=2, side=48).pixels, np.array([0, 1, 0]), ("c", "d"))
    both = joined([one, two])
    assert both.pixels.shape == (7, 32, 32, 3)
    assert both.class_names == ("a", "b", "c", "d")
    assert both.labels.tolist() == [0, 1, 2, 0, 2, 3, 2]
    assert both.name == "leaves and more"


@pytest.mark.slow
def test_fit_from_pictures_to_an_enhancer_with_its_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def recipes(self: Fit, side: int) -> Sequence[Recipe]:
        return (TINY,)

    monkeypatch.setattr(Fit, "recipes", recipes)
    monkeypatch.setattr(fitting, "VICTIMS", 1)
    reported: list[tuple[str, int, int]] = []
    source = some_source()
    out = tmp_path / "out" / "mine.safetensors"
    plan = Fit(
        setting="faithful",
        sources=[as_folder(source, tmp_path / "pictures")],
        work=tmp_path / "work",
        out=out,
        clients=2,
        steps=8,
        size=32,
        licence="made here",
    )
    card = fit(plan, lambda what, done, total, scores: reported.append((what, done, total)))
    assert reported[0] == ("pairs of 12 pictures of pictures", 0, 2)
    assert ("pairs of 12 pictures of pictures", 2, 2) in reported
    assert reported[-1] == ("training", 8, 8)
    enhancer = Learned("mine", out)
    assert enhancer.card["licence"] == "made here"
    assert len(enhancer.seen) == 12
    page = out.with_suffix(".md").read_text()
    assert "made here" in page
    assert card["checksum"] in page

    # Another goes on from these weights and these pairs, with other pictures: it knows those of both.
    other = as_folder(some_source(seed=5, name="more"), tmp_path / "other")
    further = replace(
        plan,
        sources=[other],
        work=tmp_path / "further",
        out=tmp_path / "out" / "further.safetensors",
        begin=out,
        pairs=[plan.work / "pairs"],
        licence="made there",
    )
    with pytest.raises(UsageError, match=r"has learned from 12 pictures of .* which is for evaluation"):
        fit(replace(further, evaluate=[tmp_path / "pictures"]))
    card = fit(further)
    assert (card["data"], card["licence"]) == ("other, after pictures", "made there, and made here")
    assert card["begun"] == enhancer.card["checksum"]
    assert len(Learned("further", further.out).seen) == 24
    with pytest.raises(UsageError, match="pairs of other pictures"):
        fit(replace(further, sources=plan.sources))
    drawing = {"setting": "semantic", "begin": None, "lpips_weights": tmp_path / "alexnet.npz"}
    with pytest.raises(UsageError, match="may count other classes"):
        fit(replace(further, **drawing))


def test_a_fit_that_cannot_work_says_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least one source"):
        Fit(setting="faithful", sources=[], work=tmp_path, out=tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match="at least 2 clients"):
        Fit(setting="faithful", sources=[tmp_path], work=tmp_path, out=tmp_path / "x.safetensors", clients=1)
    with pytest.raises(UsageError, match="--lpips-weights"):
        Fit(setting="semantic", sources=[tmp_path], work=tmp_path, out=tmp_path / "x.safetensors")
    with pytest.raises(UsageError, match=r"end in \.safetensors"):
        Fit(setting="faithful", sources=[tmp_path], work=tmp_path, out=tmp_path / "x.md")
    with pytest.raises(UsageError, match="at least 1 step"):
        Fit(setting="faithful", sources=[tmp_path], work=tmp_path, out=tmp_path / "x.safetensors", steps=0)
    Image.new("RGB", (32, 32)).save(tmp_path / "one.png")
    with pytest.raises(UsageError, match="has one class"):
        fit(
            Fit(
                setting="semantic",
                sources=[tmp_path],
                work=tmp_path / "work",
                out=tmp_path / "x.safetensors",
                lpips_weights=tmp_path / "alexnet.npz",
            )
        )


def test_what_is_missing_is_said_before_hours_of_work(tmp_path: Path) -> None:
    sources = [as_folder(some_source(), tmp_path / "pictures")]
    plan = Fit(setting="faithful", sources=sources, work=tmp_path / "work", out=tmp_path / "x.safetensors", size=32)
    with pytest.raises(UsageError, match="begin"):
        fit(replace(plan, begin=tmp_path / "begin.safetensors"))
    with pytest.raises(UsageError, match="alexnet"):
        fit(replace(plan, setting="semantic", lpips_weights=tmp_path / "alexnet.npz"))
    assert not plan.work.exists()
