"""A victim of your own: torchvision's ResNet-18, with BatchNorm and a pooled head.

    unveil audit audit.toml    # with model = "examples.torchvision_resnet18:factory"

The factory is given `image_shape` and `classes` if it names them. Normalisation belongs to the model, because
an attack rebuilds the pictures in [0, 1] that the client holds, not what the network's first layer sees.
"""

from torch.nn import Module, Sequential
from torchvision.models import resnet18
from torchvision.transforms import Normalize


def factory(classes: int) -> Module:
    """ResNet-18 for pictures in [0, 1], randomly initialised."""
    normalise = Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
    return Sequential(normalise, resnet18(num_classes=classes))
