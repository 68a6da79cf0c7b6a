"""Recorders and obfuscations for federations of NVFlare; see docs/recording.md. Extra `unveil[nvflare]`.

The filters are NVFlare's own classes with a method of ours, so they are imported only when they are asked for.
"""

from importlib import import_module
from typing import Any

from unveil.captures.nvflare.recognition import spec_of_filter
from unveil.captures.nvflare.recorded import recorded
from unveil.core.errors import UsageError

FILTERS = {
    "KeepingFilter": "keeping",
    "RecordingFilter": "recording",
    "ObfuscationFilter": "obfuscation",
    "record": "recording",
    "obfuscate": "obfuscation",
}
"""Name -> the module here that has it, and needs NVFlare."""

__all__ = [*FILTERS, "recorded", "spec_of_filter"]


def __getattr__(name: str) -> Any:
    """Return what needs NVFlare.

    Raises:
        UsageError: NVFlare is not installed.
    """
    if name not in FILTERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        import nvflare.apis.dxo_filter  # noqa: F401
    except ImportError:
        raise UsageError("NVFlare 2.9 or newer is not installed; pip install 'unveil[nvflare]'") from None
    return getattr(import_module(f"{__name__}.{FILTERS[name]}"), name)
