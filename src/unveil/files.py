"""Files that a user names: regular ones, of a size that a machine can hold."""

from __future__ import annotations

import stat
from pathlib import Path

from unveil.errors import UsageError


def regular_file(path: str | Path, what: str) -> Path:
    """The path, if a plain file lies there: a device or a pipe could be read for ever.

    Args:
        path: Where it lies.
        what: What it is to the user, for the message, such as `weights`.

    Raises:
        UsageError: There is nothing, or no plain file, or it may not be looked at.
    """
    found = Path(path)
    try:
        mode = found.stat().st_mode
    except FileNotFoundError:
        raise UsageError(f"{what} {str(path)!r}: there is no such file; check the path") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(f"{what} {str(path)!r}: cannot be looked at ({reason}); check the path") from None
    if not stat.S_ISREG(mode):
        raise UsageError(f"{what} {str(path)!r}: is not a plain file; name one that is")
    return found
