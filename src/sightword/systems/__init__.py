"""One folder per research system. A folder here with a `config.py` is a system: nothing else registers it."""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
