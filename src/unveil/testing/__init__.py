"""The laws of every kind of component as functions, for packages that bring their own: call them in your tests.

Each returns nothing for a component that keeps the laws of its kind, and raises an `AssertionError` of one sentence for
the first that it breaks. Nothing but torch is needed; any test runner will do.
"""

from unveil.testing.attacks import check_attack
from unveil.testing.enhancers import check_enhancer
from unveil.testing.metrics import check_metric
from unveil.testing.obfuscations import check_obfuscation
from unveil.testing.trainings import check_training

__all__ = ["check_attack", "check_enhancer", "check_metric", "check_obfuscation", "check_training"]
