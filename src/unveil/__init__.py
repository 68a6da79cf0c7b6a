"""Shows what a federated-learning update gives away.

`import unveil as uv` gives the names of `__init__.pyi`. Each is imported when it is first used, so the import itself
takes milliseconds and leaves torch alone.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
