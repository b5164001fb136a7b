"""The public surface is what `sightword.__all__` says, and importing it costs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sightword


@pytest.mark.parametrize("name", sightword.__all__)
def test_every_public_name_can_be_imported_and_explains_itself(name):
    assert getattr(sightword, name).__doc__


def test_what_type_checkers_see_is_what_there_is():
    tree = ast.parse(Path(sightword.__file__).read_text())
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(sightword.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="VQVAModel"):
        _ = sightword.VQVAModel


def test_importing_the_package_imports_no_torch():
    code = "import sightword, sys; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
