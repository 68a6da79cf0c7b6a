"""The public names, each beside the module that has it; `__init__.py` reads them from here."""

from . import attacks as attacks
from . import enhancers as enhancers
from . import metrics as metrics
from . import obfuscations as obfuscations
from . import testing as testing
from .audits.audit import Audit as Audit
from .audits.audit import run as run
from .audits.pipeline import Outcome as Outcome
from .audits.pipeline import play as play
from .audits.recorded.audit import RecordedAudit as RecordedAudit
from .audits.recorded.making import recorded_client as recorded_client
from .audits.results import read_trials as read_trials
from .audits.scoring import MetricSelection as MetricSelection
from .audits.tabular import results as results
from .audits.threat_model import ThreatModel as ThreatModel
from .audits.trial import run_trial as run_trial
from .captures.conversion import update_of as update_of
from .captures.manifest import Manifest as Manifest
from .captures.reading import read_recording as read_recording
from .captures.reading import read_recordings as read_recordings
from .captures.recording import Recording as Recording
from .captures.writing import write_recording as write_recording
from .clients.client import Client as Client
from .clients.client import EvaluationSet as EvaluationSet
from .clients.making import make_client as make_client
from .clients.training import FedAvg as FedAvg
from .clients.training import FedSGD as FedSGD
from .core.batch import Batch as Batch
from .core.errors import UsageError as UsageError
from .core.metric import Metric as Metric
from .core.protocols import Attack as Attack
from .core.protocols import Enhancer as Enhancer
from .core.protocols import Knowledge as Knowledge
from .core.protocols import LocalTraining as LocalTraining
from .core.protocols import Obfuscation as Obfuscation
from .core.reconstruction import Reconstruction as Reconstruction
from .core.reconstruction import Stop as Stop
from .core.records import ScoredOutcome as ScoredOutcome
from .core.records import Trial as Trial
from .core.update import Update as Update
from .metrics.scoring import score as score
from .report.html import write_report as write_report
from .report.pooling import summarise as summarise
from .report.table import print_table as print_table

__version__: str
