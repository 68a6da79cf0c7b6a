"""The facts of metrics under the names that the report's other files use."""

from unveil.core.types import MetricFacts as Measure
from unveil.metrics import FACTS as MEASURES
from unveil.metrics import facts_of as measure

__all__ = ["MEASURES", "Measure", "measure"]
