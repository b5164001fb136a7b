"""The public surface is one list, importing it costs nothing, and type checkers see the same names."""

import subprocess
import sys

import pytest

import sightword


@pytest.mark.parametrize("name", sightword.__all__)
def test_every_public_name_can_be_imported_and_explains_itself(name):
    assert getattr(sightword, name).__doc__


def test_the_list_has_the_names_that_the_specifications_give():
    named = {"VQVAEModel", "AnimeDataModule", "LPIPS", "SemanticSpatialVQ", "IntentonomyClipViTMultiStreamModule"}
    named |= {"generate_semantic_anchors", "BiFusionEncoder", "TinySAModule", "build_uv_index", "ResNet3dSlowOnly"}
    assert named <= set(sightword.__all__)
    assert set(sightword.__all__) <= set(dir(sightword))


@pytest.mark.slow
def test_type_checkers_know_the_types_of_public_names(tmp_path):
    pytest.importorskip("mypy")
    (tmp_path / "use.py").write_text(
        "import sightword\n"
        "quantizer = sightword.VectorQuantizer(4, 2)\n"
        "wrong: int = quantizer\n"
        "sightword.VectorQuantiser\n"
    )
    command = [sys.executable, "-m", "mypy", "--no-incremental", "--follow-imports=silent", "use.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert 'expression has type "VectorQuantizer"' in done.stdout
    assert "VectorQuantiser" in done.stdout


def test_star_imports_every_name():
    space = {}
    exec("from sightword import *", space)
    assert set(sightword.__all__) <= set(space)


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="VQVAModel"):
        _ = sightword.VQVAModel


def test_importing_the_package_imports_nothing_heavy():
    code = "import sightword, sys; assert not {'torch', 'ast', 'numpy'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
