"""Audits whose power is cut: what is left is what was synced, and the audit goes on from there.

A process that runs an audit keeps, at each `fsync`, what a disk must then hold: the content of a file, or the names in
a folder. At one of them the power is cut, and a folder is rebuilt from what was synced: from that alone, or with all
names that the folders held, whose files are empty where their content was not synced, as some file systems leave them.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.frame import Result
from benchmarks.hostile.audits import kept, set_up, wrong
from benchmarks.hostile.children import started, waited, warm
from unveil.audits import running

ARGS = ("audit", "audit.toml", "--out", "out")
CUT = 77  # exit code of a process without power
RETURNED = "returned"  # file in which a process notes how many trials were finished, beside the results folder


def run(folder: Path, *, cuts: int, seed: int = 0) -> Result:
    """Cut the power this often, every second time with the names that were not synced.

    Args:
        folder: An empty folder to work in.
        cuts: How often.
        seed: Of the moments.
    """
    warm()
    set_up(folder)
    log, out, left = folder / "log", folder / "out", folder / "left"
    syncs = folder / "syncs"
    assert waited(started(ARGS, log, folder=folder, inside=_counting(syncs)), log).code == 0, log.read_text()
    reference, most = kept(out), int(syncs.read_text())
    chance, found, finished, again = random.Random(seed), [], 0, 0
    for number in range(cuts):
        for path in (out, left):
            shutil.rmtree(path, ignore_errors=True)
        (folder / RETURNED).unlink(missing_ok=True)
        moment, names = chance.randrange(1, most), bool(number % 2)
        disk = _Disk(out, left, moment, names)
        ended = waited(started(ARGS, log, folder=folder, inside=disk.installed), log)
        if ended.code != CUT:
            found.append(f"cut {number}: exit {ended.code}: {ended.out[-200:]}")
            continue
        sure = int((folder / RETURNED).read_text()) if (folder / RETURNED).exists() else 0
        finished += sure
        shutil.rmtree(out)
        if left.exists():
            left.rename(out)
        there = kept(out)
        if len(there.trials) < sure:
            found.append(f"cut {number}: {sure} trials were finished, {len(there.trials)} are left")
        found += [f"cut {number}: {what}" for what in wrong(out, reference, finished=False)]
        ended = waited(started(ARGS, log, folder=folder), log)
        again += "run again" in ended.out
        if ended.code != 0:
            found.append(f"cut {number}: going on ended with {ended.code}: {ended.out[-200:]}")
        found += [f"cut {number}, going on: {what}" for what in wrong(out, reference, finished=True)]
    return {"cuts": cuts, "finished before": finished, "syncs": most, "repaired": again, "wrong": found}


class _Disk:
    """What is on the disk of a process, by the numbers of its files.

    Args:
        out: The results folder.
        left: Where the folder is rebuilt.
        moment: Number of the sync before which the power is cut.
        names: Whether names that were not synced are there, too.
    """

    def __init__(self, out: Path, left: Path, moment: int, names: bool) -> None:
        self.out, self.left, self.names = out, left, names
        self.contents: dict[int, bytes] = {}
        self.folders: dict[int, dict[str, int]] = {}
        self.moments = itertools.count(moment, -1)

    def installed(self) -> None:
        """Watch this process's syncs, and the trials that it has finished."""
        real, append = os.fsync, running.append

        def fsync(file: int) -> None:
            if next(self.moments) == 0:
                self.leave()
                os._exit(CUT)
            real(file)
            self.synced(file)

        def appended(*args: Any) -> Any:
            trial = append(*args)
            path = self.out.parent / RETURNED
            path.write_text(str(int(path.read_text()) + 1 if path.exists() else 1))
            return trial

        os.fsync = fsync
        running.append = appended

    def synced(self, file: int) -> None:
        """Note what is on the disk after a sync."""
        found = os.fstat(file)
        path = Path(os.readlink(f"/proc/self/fd/{file}"))
        if stat.S_ISDIR(found.st_mode):
            self.folders[found.st_ino] = {name: (path / name).lstat().st_ino for name in os.listdir(path)}
        else:
            self.contents[found.st_ino] = path.read_bytes()

    def leave(self) -> None:
        """Write what is left into the folder `left`; nothing if the results folder's own name was not synced."""
        above = self.folders.get(self.out.parent.stat().st_ino, {})
        if self.out.name in (set(os.listdir(self.out.parent)) if self.names else above):
            self._folder(self.out, self.left)

    def _folder(self, old: Path, new: Path) -> None:
        new.mkdir(mode=0o700)
        kept_names = self.folders.get(old.stat().st_ino, {})
        there = {path.lstat().st_ino: path for path in old.iterdir()}
        names = {path.name: inode for inode, path in there.items()} if self.names else kept_names
        for name, inode in names.items():
            if inode in there and there[inode].is_dir():
                self._folder(there[inode], new / name)
            else:
                (new / name).write_bytes(self.contents.get(inode, b""))


def _counting(path: Path) -> Callable[[], None]:
    """What makes a process write how many syncs it did."""

    def install() -> None:
        real, done = os.fsync, itertools.count(1)

        def fsync(file: int) -> None:
            real(file)
            path.write_text(str(next(done)))

        os.fsync = fsync

    return install
