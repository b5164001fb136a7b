"""Types of what open_clip and transformers give. Neither is typed: what they return is checked where it is opened.

`CLIPImage`, `SigLIPImage`, `T5Text` and the others are the typed border; nothing outside `towers` sees a foreign type.
"""

from typing import Any, TypeAlias

#: A network, a tokenizer, a class or a config object of either library.
Foreign: TypeAlias = Any
#: A config as plain data: nested dictionaries, lists, texts and numbers.
Config: TypeAlias = dict[str, Any]
