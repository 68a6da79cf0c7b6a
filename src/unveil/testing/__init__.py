"""Functions that check the laws of every kind of component, for the tests of packages with components of their own.

Each function returns nothing if the component keeps the laws of its kind. It raises an `AssertionError` for the first
law that the component breaks; the message is one sentence. Any test runner can call them.
"""

from unveil.testing.attacks import check_attack
from unveil.testing.enhancers import check_enhancer
from unveil.testing.metrics import check_metric
from unveil.testing.obfuscations import check_obfuscation
from unveil.testing.trainings import check_training

__all__ = ["check_attack", "check_enhancer", "check_metric", "check_obfuscation", "check_training"]
