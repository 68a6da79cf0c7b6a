"""Audits as the command line describes them: values that make the audit, in this process or in a worker."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from unveil.cli.config import load
from unveil.cli.presenting import named_device, named_enhancer
from unveil.cli.recorded import RecordedOptions, recorded_audit
from unveil.core.errors import UsageError
from unveil.core.files import shown

if TYPE_CHECKING:
    from unveil.advice.federation import FederatedRun, Federation
    from unveil.advice.updates import Joined, Places
    from unveil.audits.audit import Audit
    from unveil.audits.kept_pictures import Kept
    from unveil.audits.recorded.audit import RecordedAudit


@dataclass(frozen=True, kw_only=True)
class DescribedAudit:
    """An audit file with the options of the command line.

    Args:
        file: The audit file.
        overrides: `KEY=VALUE` of each `--set`.
        variant: Name of a variant; None for none.
        device: Where to compute.
        lpips_weights: File of LPIPS weights, or `download`; None for what the file says.
        enhancer: Name of an enhancer; None for what the file says.
        images: Which pictures the results keep.
    """

    file: Path
    overrides: tuple[str, ...] = ()
    variant: str | None = None
    device: str = "cpu"
    lpips_weights: str | None = None
    enhancer: str | None = None
    images: Kept = "full"

    def __call__(self) -> Audit:
        """Make the audit; raises a `UsageError` where something in it cannot be used."""
        audit = load(self.file, self.overrides, variant=self.variant)
        if self.lpips_weights is not None:
            audit = replace(audit, metrics=replace(audit.metrics, lpips_weights=self.lpips_weights))
        if self.enhancer is not None:
            audit = replace(audit, enhancer=named_enhancer(self.enhancer))
        return replace(audit, images=self.images).to(named_device(self.device))


@dataclass(frozen=True, kw_only=True)
class DescribedRecordings:
    """A recorded update, or a folder of them, with the options of the command line.

    Args:
        file: The recorded update, or the folder.
        options: The options that are for recorded updates alone.
        device: Where to compute.
        lpips_weights: File of LPIPS weights, or `download`; None to leave LPIPS out.
        images: Which pictures the results keep.
    """

    file: Path
    options: RecordedOptions
    device: str = "cpu"
    lpips_weights: str | None = None
    images: Kept = "blurred"

    def __call__(self) -> RecordedAudit:
        """Make the audit; raises a `UsageError` where something in it cannot be used."""
        audit = recorded_audit(self.file, self.options, self.lpips_weights, images=self.images)
        return audit.to(named_device(self.device))


@dataclass(frozen=True, kw_only=True)
class DescribedUpdates:
    """The updates of a federation that was trained through an obfuscation, of an advice file.

    Args:
        file: The advice file.
        overrides: `KEY=VALUE` of each `--set`.
        images: Which pictures the results keep.
        folder: The folder of the advice, in which the trainings are.
        obfuscation: SPEC of the obfuscation.
        without: Clients that are left out.
    """

    file: Path
    overrides: tuple[str, ...]
    images: Kept
    folder: Path
    obfuscation: str
    without: Places

    def __call__(self) -> Joined:
        """Make the audit; raises a `UsageError` where a training is missing or something cannot be used."""
        from unveil.advice.updates import audit_of
        from unveil.cli.advice_config import load_question
        from unveil.obfuscations import parse

        question = load_question(self.file, self.overrides)
        runs = self.trainings(question.federation)
        auditing = replace(question.auditing, images=self.images)
        return audit_of(question.federation, runs, parse(self.obfuscation), auditing, without=self.without)

    def trainings(self, federation: Federation) -> list[FederatedRun]:
        """Read the federation's trainings through the obfuscation; raises a `UsageError` where one is missing."""
        from unveil.advice.folder import kept, key_of

        runs = [kept(self.folder, key_of(federation, self.obfuscation, seed)) for seed in federation.seeds]
        found = [run for run in runs if run is not None]
        if len(found) < len(runs):
            raise UsageError(
                f"{shown(self.folder)} has no training of this federation through {self.obfuscation}; leave the folder "
                "and the files of the advice alone while it runs, and run the same command again"
            )
        return found
