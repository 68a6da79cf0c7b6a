import pytest
import torch
from PIL import Image

from unveil.attacks import parse as parse_attack
from unveil.audits.audit import Audit
from unveil.audits.threat_model import ThreatModel
from unveil.audits.trial import settings_of
from unveil.clients.making import make_client
from unveil.clients.models.normalisation import Normalisation
from unveil.clients.pictures import BUILTIN_PICTURES, load_pictures
from unveil.clients.training import FedSGD
from unveil.core.errors import UsageError
from unveil.obfuscations import parse as parse_obfuscation

SETTINGS = {"name": "demo", "model": "lenet", "images": "builtin", "size": 16, "batch": 3, "training": FedSGD()}


def test_a_scene_of_builtin_pictures():
    client = make_client(**SETTINGS, seed=4)
    assert (client.name, client.model_name, client.source) == ("demo", "lenet", "builtin")
    assert client.classes == len(BUILTIN_PICTURES)
    assert torch.equal(client.batch.images, load_pictures("builtin", count=3, size=16).images)
    assert client.model(client.batch.images).shape == (3, client.classes)
    again = make_client(**SETTINGS, seed=4)
    assert all(map(torch.equal, client.model.parameters(), again.model.parameters()))


def test_what_the_attacker_is_granted():
    client = make_client(**SETTINGS, classes=20)
    knowledge = client.knowledge(None)
    assert knowledge.image_shape == (3, 16, 16)
    assert (knowledge.num_images, knowledge.classes, knowledge.obfuscation) == (3, 20, None)
    assert knowledge.training is client.training
    assert knowledge.labels.tolist() == client.batch.labels.tolist()


def test_an_attack_that_overwrites_its_labels_leaves_the_clients():
    client = make_client(**SETTINGS)
    client.knowledge(None).labels.zero_()
    assert client.batch.labels.tolist() == [0, 1, 2]


def test_label_out_of_range():
    with pytest.raises(UsageError, match=r"client 'demo': label 2 \('coffee'\) is out of range for 2 classes; set cla"):
        make_client(**SETTINGS, classes=2)


def test_csv_labels_and_classes_of_a_folder(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "x.png")
    (tmp_path / "labels.csv").write_text("file,label\nx.png,7\n")
    folder = SETTINGS | {"images": str(tmp_path), "batch": 1, "labels_csv": str(tmp_path / "labels.csv")}
    assert make_client(**folder).classes == 8
    assert make_client(**folder, classes=1000).model[-1].out_features == 1000
    with pytest.raises(UsageError, match=r"label 7 \('7'\) is out of range for 5 classes; set classes to at least 8"):
        make_client(**folder, classes=5)


def test_one_class_has_no_gradient(tmp_path):
    (tmp_path / "all").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "all" / "x.png")
    with pytest.raises(UsageError, match=r"expected at least 2 classes, got 1, with which every gradient is zero"):
        make_client(**SETTINGS | {"images": str(tmp_path), "batch": 1})


def test_a_gallery_of_another_source_gives_decoys_and_the_other_client(tmp_path):
    for number in range(3):
        (tmp_path / f"c{number}").mkdir()
        Image.new("RGB", (16, 16), (80 * number, 9, 9)).save(tmp_path / f"c{number}" / "x.png")
    few = SETTINGS | {"images": str(tmp_path)}
    assert make_client(**few, others=True).evaluation.others is None  # its own source has no picture left
    client = make_client(**few, gallery="builtin", decoys=4, others=True)
    builtin = load_pictures("builtin", count=7, size=16).images
    assert torch.equal(client.evaluation.decoys, builtin[:4])
    assert torch.equal(client.evaluation.others.images, builtin[4:])
    assert torch.equal(
        client.evaluation.others.labels, client.batch.labels
    )  # the gallery's classes are not this model's


@pytest.mark.parametrize("channels", [1, 3])
def test_grey_and_sides_that_differ(channels):
    client = make_client(**SETTINGS | {"size": (33, 47), "batch": 1}, channels=channels, decoys=2, others=True)
    assert client.batch.images.shape == (1, channels, 33, 47)
    assert client.evaluation.decoys.shape == (2, channels, 33, 47)
    assert client.evaluation.others.images.shape == (1, channels, 33, 47)
    assert client.knowledge(None).image_shape == (channels, 33, 47)


def test_grey_is_the_luma_of_the_colours(tmp_path):
    (tmp_path / "c").mkdir()
    Image.new("RGB", (20, 30), (255, 128, 0)).save(tmp_path / "c" / "x.png")
    grey = load_pictures(tmp_path, count=1, size=(6, 4), channels=1).images
    assert grey.shape == (1, 1, 6, 4)
    luma = (0.299 * 255 + 0.587 * 128) / 255  # ITU-R 601-2
    assert torch.allclose(grey, torch.full_like(grey, luma), atol=1 / 255)
    with pytest.raises(UsageError, match=r"expected 1 channel \(grey\) or 3 \(RGB\), got 2"):
        load_pictures(tmp_path, count=1, size=6, channels=2)


def test_a_picture_is_cut_about_its_centre_to_the_shape_asked_for(tmp_path):
    (tmp_path / "c").mkdir()
    stripes = Image.new("RGB", (40, 20), "white")
    stripes.paste("black", (0, 0, 10, 20))
    stripes.paste("black", (30, 0, 40, 20))
    stripes.save(tmp_path / "c" / "x.png")
    assert bool((load_pictures(tmp_path, count=1, size=20).images > 0.95).all())  # the white square in the middle
    wide = load_pictures(tmp_path, count=1, size=(20, 40)).images
    assert bool((wide[..., :9] == 0).all())
    assert bool((wide[..., 11:29] == 1).all())


@pytest.mark.parametrize(
    "change", [{"size": 100_000}, {"size": (3, 10**9)}, {"batch": 10**9}, {"classes": 10**9}, {"size": 1000}]
)
def test_what_no_machine_holds_is_refused_before_it_is_tried(change):
    with pytest.raises(UsageError, match=r"lower|at most|larger than 'builtin'"):
        make_client(**SETTINGS | change)


def test_weights_and_normalisation_are_part_of_what_a_scene_is(tmp_path):
    model = make_client(**SETTINGS, seed=9).model
    torch.save({"state_dict": model.state_dict()}, tmp_path / "w.pt")
    normalisation = Normalisation.of(0.5, 0.25, channels=3)
    client = make_client(**SETTINGS, weights=str(tmp_path / "w.pt"), normalisation=normalisation)
    assert all(map(torch.equal, client.model.parameters(), model.parameters()))
    images = client.batch.images
    assert torch.allclose(client.model(images), model((images - 0.5) / 0.25), atol=1e-5)
    assert client.given["weights"].startswith("w.pt (SHA-256 ")
    assert client.given["normalise"] == "mean 0.5, std 0.25"
    assert [sentence.split(",")[0] for sentence in client.assumptions] == [
        f"The model's weights are those of {client.given['weights']}",
        "Pictures in [0",
    ]
    attack, obfuscation = parse_attack("rog:steps=1"), parse_obfuscation("none")
    assert settings_of(client, obfuscation, attack, ThreatModel()).items() > client.given.items()
    plain = Audit(clients=[make_client(**SETTINGS, seed=9)], obfuscations=[obfuscation], attacks=[attack])
    trained = Audit(clients=[client], obfuscations=[obfuscation], attacks=[attack])
    assert plain.settings()["clients"][0]["weights"] == trained.settings()["clients"][0]["weights"]  # the same numbers
    assert plain.settings() != trained.settings()
