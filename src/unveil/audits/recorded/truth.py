"""The pictures of a recorded client, where whoever audits has them: for scores alone."""

from __future__ import annotations

from pathlib import Path

import torch

from unveil.clients.pictures.decode import load_fitted
from unveil.clients.pictures.folders import contents
from unveil.core.errors import UsageError
from unveil.core.files import is_folder, shown
from unveil.core.reads import shared_read
from unveil.core.types import Images

MOST = 4096
"""Most pictures."""


@shared_read
def load_truth(folder: Path, image_shape: tuple[int, int, int], option: str = "--truth") -> Images:
    """Load every picture of a folder and of its sub-folders, in the order of their names.

    Each is cropped about its centre to the aspect ratio of `image_shape`, and resized.

    Args:
        folder: The folder.
        image_shape: Channels (1 or 3), height and width of the client's pictures.
        option: What the folder was given by, for messages.

    Raises:
        UsageError: There are no pictures or too many, or one of them cannot be read.
    """
    channels, height, width = image_shape
    if not is_folder(folder):
        raise UsageError(f"{option} {shown(folder)} is no folder; name the folder that holds the pictures")
    if channels not in (1, 3):
        raise UsageError(f"{option}: pictures of {channels} channels cannot be read; leave {option} out")
    top = contents(folder)
    files = [*top.pictures, *(path for inner in top.folders for path in contents(inner).pictures)]
    if not 0 < len(files) <= MOST:
        raise UsageError(
            f"{option} {shown(folder)} holds {len(files):,} pictures, expected 1 to {MOST:,}; name another"
        )
    return torch.stack([load_fitted(path, (height, width), channels) for path in files])
