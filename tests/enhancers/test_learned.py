import dataclasses
import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from instances import first_of_each
from seeds import seeded, shifted
from unveil import attacks, enhancers, obfuscations
from unveil.clients.models import build_model
from unveil.clients.pictures import load_pictures
from unveil.clients.training import FedSGD
from unveil.core.batch import Batch
from unveil.core.errors import UsageError
from unveil.core.protocols import Knowledge
from unveil.core.reconstruction import FeatureFit, Reconstruction
from unveil.core.update import Update
from unveil.enhancers.conditioning import hints_of
from unveil.enhancers.generator import ClassConditionalGenerator
from unveil.enhancers.learned import SHIPPED, Learned, classes_of, restored
from unveil.enhancers.research import CHECKSUMS
from unveil.enhancers.restorer import Restorer
from unveil.enhancers.weights import load_weights, save_weights
from unveil.metrics.alignment import align
from unveil.metrics.pixel import psnr

NAMES = ("cat", "water_lilly", "n02123045 tabby")


def some_restorer(seed: int = 0) -> Restorer:
    """A restorer that changes what it is given."""
    torch.manual_seed(shifted(seed))
    network = Restorer(widths=(4, 6), blocks=1)
    torch.nn.init.normal_(network.body.last.weight, std=0.05)
    return network.eval()


def some_generator(seed: int = 0) -> ClassConditionalGenerator:
    torch.manual_seed(shifted(seed))
    network = ClassConditionalGenerator(names=NAMES, widths=(4, 6), blocks=1)
    torch.nn.init.normal_(network.body.last.weight, std=0.05)
    return network.eval()


def guess_of(images: Tensor, evidence: FeatureFit | None = None) -> Reconstruction:
    return Reconstruction(images=images, labels=torch.arange(len(images)), losses=[], evidence=evidence)


@pytest.fixture
def images() -> Tensor:
    return torch.rand((3, 3, 32, 32), generator=seeded(1))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "mine.safetensors"
    save_weights(some_restorer(), path, seen=torch.zeros((1, 32), dtype=torch.uint8), card={"purpose": "tests"})
    return path


def test_hints_tell_a_firm_picture_from_a_loose_one_and_from_an_unknown_one() -> None:
    known = hints_of(FeatureFit(noise=torch.tensor([0.0, 1.0]), miss=torch.tensor([0.1, 0.1])), 2)
    assert known[0, 0] < known[1, 0]
    assert known[:, 2].tolist() == [1.0, 1.0]
    assert not hints_of(None, 2).any()


@pytest.mark.parametrize("side", first_of_each([50, 28, 32, 96]))
def test_an_untrained_network_changes_nothing_at_any_size(side: int) -> None:
    images = torch.rand((2, 3, side, side + 4))
    pictures, expected = Restorer()(images, hints_of(None, 2))
    torch.testing.assert_close(pictures, images)
    assert expected.shape == (2, 1, side, side + 4)
    assert (expected > 0).all()
    drawn = ClassConditionalGenerator(names=NAMES)(images, hints_of(None, 2), torch.zeros(2, dtype=torch.long))
    torch.testing.assert_close(drawn, images)


def test_a_picture_is_restored_alike_whatever_stands_beside_it(images: Tensor) -> None:
    network = some_restorer()
    together, _ = restored(network, images, hints_of(None, 3))
    alone, _ = restored(network, images[1:2], hints_of(None, 1))
    torch.testing.assert_close(together[1:2], alone, rtol=1e-4, atol=1e-5)


def test_hints_and_classes_change_what_comes_out(images: Tensor) -> None:
    firm = hints_of(FeatureFit(noise=torch.full((3,), 0.01), miss=torch.full((3,), 0.01)), 3)
    loose = hints_of(FeatureFit(noise=torch.full((3,), 1.0), miss=torch.full((3,), 1.0)), 3)
    restorer, generator = some_restorer(), some_generator()
    assert (restorer(images, firm)[0] - restorer(images, loose)[0]).abs().max() > 1e-4
    one, two = (generator(images, firm, torch.full((3,), c)) for c in (1, 2))
    assert (one - two).abs().max() > 1e-3


def test_a_generator_has_something_to_draw_from_the_label_alone() -> None:
    generator = some_generator()
    grey = torch.full((2, 3, 64, 64), 0.5)
    drawn = generator(grey, torch.zeros((2, 3)), torch.tensor([1, 2]))
    inside = drawn[:, :, 16:48, 16:48]  # away from the edges, which convolutions see
    with torch.no_grad():
        generator.sketches.weight[1:3] = generator.sketches.weight[1:3].flip(1)
    other = generator(grey, torch.zeros((2, 3)), torch.tensor([1, 2]))[:, :, 16:48, 16:48]
    assert (inside - other).abs().max() > 1e-4
    assert inside[0].std((1, 2)).max() > 1e-4


def test_grey_pictures_stay_grey(images: Tensor, weights: Path) -> None:
    grey = images[:, :1]
    found = Learned("mine", weights)(guess_of(grey))
    assert found.images.shape == grey.shape
    with pytest.raises(UsageError, match="1 or 3 channels"):
        Learned("mine", weights)(guess_of(images[:, :2]))


def test_classes_are_found_by_name_whatever_their_spelling() -> None:
    network = some_generator()
    names = ("dog", "Cat", "water lilly", "tabby")
    assert classes_of(network, torch.tensor([0, 1, 2, 3, 9]), names).tolist() == [0, 1, 2, 3, 0]
    assert classes_of(network, torch.tensor([1]), ()).tolist() == [0]


def test_a_generator_says_that_it_invents(images: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "draws.safetensors"
    save_weights(some_generator(), path, seen=torch.zeros((0, 32), dtype=torch.uint8), card={})
    enhancer = Learned("draws", path)
    assert enhancer.uses_labels
    assert not enhancer.is_faithful
    found = enhancer(guess_of(images), class_names=("cat", "dog", "tabby"))
    assert "class of 2 of 3" in found.notes[-1]
    assert "invented" in found.notes[-1]
    assert 0 <= found.images.min() <= found.images.max() <= 1


def test_weights_come_back_as_they_were_written(images: Tensor, weights: Path) -> None:
    network, seen, card = load_weights(weights)
    assert card["purpose"] == "tests"
    assert len(seen) == 1
    assert isinstance(network, Restorer)
    torch.testing.assert_close(
        network(images, hints_of(None, 3))[0], some_restorer()(images, hints_of(None, 3))[0], rtol=1e-2, atol=1e-2
    )
    assert not any(p.requires_grad for p in network.parameters())


def rewritten(path: Path, *, drop: str = "", put: Tensor | None = None, add: str = "", **facts: str) -> None:
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        known = dict(file.metadata())
    tensors = load_file(path)
    if drop:
        del tensors[drop]
    if put is not None:
        tensors[drop] = put
    if add:
        tensors[add] = torch.zeros(2)
    save_file(tensors, path, {**known, **facts})


@pytest.mark.slow
def test_weights_that_are_wrong_are_refused_in_one_sentence(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = weights.read_bytes()

    def refused(match: str) -> None:
        with pytest.raises(UsageError, match=match) as error:
            load_weights(weights)
        assert "\n" not in str(error.value)
        weights.write_bytes(content)

    weights.write_bytes(content[:-3])
    refused("cannot be read as safetensors")
    damaged = bytearray(content)
    damaged[-100] ^= 1
    weights.write_bytes(bytes(damaged))
    refused("checksum")
    rewritten(weights, unveil="99")
    refused("version 99")
    rewritten(weights, kind="poem")
    refused("kind poem")

    import unveil.enhancers.weights as module

    monkeypatch.setattr(module, "_checksum", lambda tensors: json.loads('"same"'))
    rewritten(weights, checksum="same", settings='{"widths": [8, 6], "blocks": 1}')
    refused("has shape")
    rewritten(weights, checksum="same", settings='{"depth": 3}')
    refused("settings are not those")
    for settings in (
        *("[8]", '{"widths": [-4, 6]}', '{"widths": []}', '{"widths": [1000000]}', '{"widths": 3}', '{"widths": null}'),
        *('{"widths": [8.5]}', '{"widths": [true]}', '{"widths": [NaN]}', '{"widths": "abc"}', '{"blocks": -1}'),
        *('{"blocks": 1.5}', '{"blocks": "2"}', '{"names": "abc"}', '{"names": [[1]]}', "[" * 100_000),
        f'{{"widths": {[1024] * 1024}, "blocks": 1024}}',
    ):
        rewritten(weights, checksum="same", settings=settings)
        refused("settings are not those")
    rewritten(weights, checksum="same", card="[]")
    refused("settings are not those")
    for seen in (None, torch.zeros((2, 7), dtype=torch.uint8), torch.zeros(2, 32)):
        rewritten(weights, checksum="same", drop="seen", put=seen)
        refused("fingerprints of its training pictures are missing or damaged")
    rewritten(weights, checksum="same", drop="body.first.bias")
    refused("'body.first.bias' is missing")
    for number, reason in ((torch.int64, "holds torch.int64"), (torch.bool, "holds torch.bool")):
        rewritten(weights, checksum="same", drop="body.first.bias", put=torch.zeros(4, dtype=number))
        refused(reason)
    for value in (torch.nan, torch.inf):
        rewritten(weights, checksum="same", drop="body.first.bias", put=torch.full((4,), value))
        refused("holds NaN or infinite values")
    # Numbers that the file does not hold are never asked for, however large its settings say that the network is.
    rewritten(weights, checksum="same", settings=f'{{"widths": {[1024] * 64}, "blocks": 1}}')
    refused("64 widths and 1 blocks need 762 tensors, and .* are there")
    monkeypatch.setattr(module, "TENSORS", 3)
    refused("and at most 3 are read")
    monkeypatch.setattr(module, "LARGEST", 30)
    refused("and at most 30 bytes are read")
    monkeypatch.setattr(module, "TENSORS", 999)
    monkeypatch.setattr(module, "LARGEST", 2**30)
    rewritten(weights, checksum="same", add="stray")
    refused("'stray' belongs to another network")
    weights.unlink()
    with pytest.raises(UsageError, match="does not exist"):
        load_weights(weights)


def test_an_enhancer_is_named_or_a_file(weights: Path) -> None:
    assert enhancers.parse("none") is None
    mine = enhancers.parse(str(weights))
    assert str(mine).startswith("mine.safetensors@")
    with pytest.raises(UsageError, match="did you mean 'faithful'"):
        enhancers.parse("faithfull")


def test_a_restorer_leaves_labels_and_evidence_alone(images: Tensor, weights: Path) -> None:
    evidence = FeatureFit(noise=torch.rand(3), miss=torch.rand(3))
    before = guess_of(images, evidence)
    kept = images.clone()
    after = Learned("mine", weights)(before)
    assert torch.equal(images, kept)
    assert not torch.equal(after.images, images)
    same = dataclasses.replace(after, images=images)
    assert same == before


CIFAR = ("cifar10_train15k", "CIFAR-10: research use")
CALTECH = ("caltech99_128", "CC BY 4.0")
TINY = ("tinyimagenet_train64", "ImageNet terms: non-commercial research")
PICTURES = {
    "faithful": CALTECH,
    "sharp": CALTECH,
    "semantic": CALTECH,
    "semantic-tinyimagenet": TINY,
    "semantic-cifar10": CIFAR,
}
SIZES = 12e6  # bytes: a package that everybody installs stays small


@pytest.mark.slow
def test_what_is_shipped_loads_has_its_card_and_is_small() -> None:
    files = [enhancers.path_of(name) for name in enhancers.CATALOGUE]
    shipped = {path.stem for path in SHIPPED.glob("*.safetensors")}
    assert shipped == {name for name, (data, _) in PICTURES.items() if data == CALTECH[0]}
    assert shipped == set(enhancers.CATALOGUE) - set(CHECKSUMS)
    assert sum(path.stat().st_size for path in files) <= SIZES
    for path in files:
        enhancer = Learned(path.stem, path)
        assert (enhancer.card["data"], enhancer.card["licence"]) == PICTURES[path.stem]
        assert str(enhancer) == path.stem
        assert enhancer.card["checksum"] == CHECKSUMS.get(path.stem, enhancer.card["checksum"])
        assert enhancer.card["checksum"] in path.with_suffix(".md").read_text()
        assert sum(p.numel() for p in load_weights(path)[0].parameters()) <= 3_000_000
        assert len(enhancer.seen) == enhancer.card["pictures"]


def test_weights_for_research_alone_are_added_by_choice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed = enhancers.path_of("semantic-cifar10")
    monkeypatch.setenv("UNVEIL_WEIGHTS", os.pathsep.join([str(tmp_path), ""]))
    monkeypatch.setattr("unveil.enhancers.research.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"'semantic-cifar10' is not part of unveil, .* install the folder"):
        enhancers.parse("semantic-cifar10")
    (tmp_path / "semantic-cifar10.safetensors").write_bytes(enhancers.path_of("semantic").read_bytes())
    with pytest.raises(UsageError, match="holds other weights than semantic-cifar10"):
        enhancers.parse("semantic-cifar10")
    monkeypatch.setenv("UNVEIL_WEIGHTS", str(installed.parent))
    assert str(enhancers.parse("semantic-cifar10")) == "semantic-cifar10"


def test_the_package_of_such_weights_is_found_where_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = enhancers.path_of("semantic-cifar10").parent
    monkeypatch.delenv("UNVEIL_WEIGHTS")
    monkeypatch.syspath_prepend(str(folder.parent))
    assert enhancers.path_of("semantic-cifar10").samefile(folder / "semantic-cifar10.safetensors")


@pytest.mark.slow
def test_the_shipped_restorer_improves_what_the_attack_made_of_pictures_it_never_saw() -> None:
    pictures = load_pictures("builtin", count=8, size=64)
    model = build_model("lenet", image_shape=(3, 64, 64), classes=10, seed=0)
    local, obfuscation = FedSGD(), obfuscations.parse("qsgd:levels=4,norm=max")
    sent = Update(local(model, Batch(pictures.images, pictures.labels)))
    received = obfuscation(sent, generator=seeded(0))
    knowledge = Knowledge(
        training=local,
        image_shape=(3, 64, 64),
        num_images=8,
        classes=10,
        labels=pictures.labels,
        obfuscation=obfuscation,
    )
    rough = attacks.parse("unveil:steps=40")(model, received, knowledge, generator=seeded(0))
    enhancer = enhancers.parse("faithful")
    assert enhancer is not None
    before, after = (psnr(pictures.images, align(pictures.images, g).images) for g in (rough, enhancer(rough)))
    assert float((after - before).mean()) > 0.4
