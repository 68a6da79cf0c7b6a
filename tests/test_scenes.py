import pytest
import torch
from PIL import Image

from unveil.errors import UsageError
from unveil.pictures import BUILTIN_PICTURES, load_pictures
from unveil.scenes import make_scene
from unveil.training import FedSGD

SETTINGS = {"name": "demo", "model": "lenet", "images": "builtin", "size": 16, "batch": 3, "training": FedSGD()}


def test_a_scene_of_builtin_pictures():
    scene = make_scene(**SETTINGS, seed=4)
    assert (scene.name, scene.model_name, scene.source) == ("demo", "lenet", "builtin")
    assert scene.classes == len(BUILTIN_PICTURES)
    assert torch.equal(scene.batch.images, load_pictures("builtin", count=3, size=16).images)
    assert scene.model(scene.batch.images).shape == (3, scene.classes)
    again = make_scene(**SETTINGS, seed=4)
    assert all(map(torch.equal, scene.model.parameters(), again.model.parameters()))


def test_what_the_attacker_is_granted():
    scene = make_scene(**SETTINGS, classes=20)
    knowledge = scene.knowledge(None)
    assert knowledge.image_shape == (3, 16, 16)
    assert (knowledge.num_images, knowledge.classes, knowledge.obfuscation) == (3, 20, None)
    assert knowledge.training is scene.training
    assert knowledge.labels.tolist() == scene.batch.labels.tolist()


def test_an_attack_that_overwrites_its_labels_leaves_the_clients():
    scene = make_scene(**SETTINGS)
    scene.knowledge(None).labels.zero_()
    assert scene.batch.labels.tolist() == [0, 1, 2]


def test_label_out_of_range():
    with pytest.raises(UsageError, match=r"scene 'demo': label 2 \('coffee'\) is out of range for 2 classes; set cla"):
        make_scene(**SETTINGS, classes=2)


def test_csv_labels_and_classes_of_a_folder(tmp_path):
    Image.new("RGB", (16, 16)).save(tmp_path / "x.png")
    (tmp_path / "labels.csv").write_text("file,label\nx.png,7\n")
    folder = SETTINGS | {"images": str(tmp_path), "batch": 1, "labels_csv": str(tmp_path / "labels.csv")}
    assert make_scene(**folder).classes == 8
    assert make_scene(**folder, classes=1000).model[-1].out_features == 1000
    with pytest.raises(UsageError, match=r"label 7 \('7'\) is out of range for 5 classes; set classes to at least 8"):
        make_scene(**folder, classes=5)


def test_one_class_has_no_gradient(tmp_path):
    (tmp_path / "all").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "all" / "x.png")
    with pytest.raises(UsageError, match=r"expected at least 2 classes, got 1, with which every gradient is zero"):
        make_scene(**SETTINGS | {"images": str(tmp_path), "batch": 1})


def test_a_gallery_of_another_source_gives_decoys_and_the_other_client(tmp_path):
    for number in range(3):
        (tmp_path / f"c{number}").mkdir()
        Image.new("RGB", (16, 16), (80 * number, 9, 9)).save(tmp_path / f"c{number}" / "x.png")
    few = SETTINGS | {"images": str(tmp_path)}
    assert make_scene(**few, others=True).others is None  # its own source has no picture left
    scene = make_scene(**few, gallery="builtin", decoys=4, others=True)
    builtin = load_pictures("builtin", count=7, size=16).images
    assert torch.equal(scene.decoys, builtin[:4])
    assert torch.equal(scene.others.images, builtin[4:])
    assert torch.equal(scene.others.labels, scene.batch.labels)  # the gallery's classes are not this model's
