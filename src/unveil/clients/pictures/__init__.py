"""Pictures and labels from a folder, or the built-in ones that need no download."""

from unveil.clients.pictures.folders import SUFFIXES
from unveil.clients.pictures.loading import (
    BUILTIN,
    BUILTIN_PICTURES,
    Pictures,
    all_pictures,
    count_pictures,
    load_pictures,
    read_all,
)

__all__ = [
    "BUILTIN",
    "BUILTIN_PICTURES",
    "SUFFIXES",
    "Pictures",
    "all_pictures",
    "count_pictures",
    "load_pictures",
    "read_all",
]
