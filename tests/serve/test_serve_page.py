import json
import re
import subprocess
from shutil import which

import pytest
from fastapi.testclient import TestClient

from sightword.serve.app import make_app
from sightword.serve.setting import Settings
from sightword.serve.site import FOLDER, KINDS

FILES = sorted(path for path in FOLDER.iterdir() if path.suffix in KINDS)
NAMESPACES = {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_of_the_page_names_another_site(path):
    assert set(re.findall(r"https?://[^\s\"'`$)]+", path.read_text("utf-8"))) <= NAMESPACES


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".html"], ids=lambda path: path.name)
def test_no_page_has_scripts_or_styles_inside_which_the_policy_refuses(path):
    text = path.read_text("utf-8")
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=", text)
    for name in re.findall(r'(?:src|href)="/page/([^"]+)"', text):
        assert (FOLDER / name).is_file()


def test_every_module_imports_names_that_there_are():
    exported = {
        path.name: set(
            re.findall(r"^export (?:async )?(?:function|const|let|class) (\w+)", path.read_text("utf-8"), re.M)
        )
        for path in FILES
    }
    for path in (path for path in FILES if path.suffix == ".js"):
        for names, other in re.findall(r'import \{([^}]+)\} from "\./([\w.]+)"', path.read_text("utf-8")):
            wanted = {name.strip() for name in names.split(",") if name.strip()}
            assert wanted <= exported[other], (path.name, other, wanted - exported[other])


@pytest.mark.skipif(which("node") is None, reason="needs Node.js")
def test_both_languages_say_everything_and_nothing_that_is_not_used():
    read = "globalThis.location = {search: ''}; globalThis.navigator = {language: 'en'};"
    read += "globalThis.localStorage = {getItem() {}, setItem() {}};"
    read += f"const {{ WORDS }} = await import('{(FOLDER / 'words.js').as_uri()}');"
    code = f"{read} console.log(JSON.stringify([Object.keys(WORDS.en), Object.keys(WORDS.zh)]))"
    argv = ["node", "--input-type=module", "-e", code]
    english, chinese = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    assert set(english) == set(chinese)
    used = "\n".join(path.read_text("utf-8") for path in FILES if path.name != "words.js")
    plain = {key for key in english if not re.match(r"[tvlew]_", key)}  # those are put together: t_intent, …
    assert {key for key in plain if not re.search(rf"""["'`]{key}["'`]""", used)} == set()


@pytest.fixture(scope="module")
def client():
    """A client of a server without models: the page is the same."""
    return TestClient(make_app(Settings((), port=80, names=("testserver",))))


def test_the_page_and_its_files_are_served_and_kept_by_the_browser(client):
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for name in [path.name for path in FILES]:
        answer = client.get(f"/page/{name}")
        assert answer.status_code == 200
        again = client.get(f"/page/{name}", headers={"if-none-match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert client.head("/").status_code == 200
    assert client.get("/docs").status_code == 200


@pytest.mark.parametrize("name", ["../app.py", "..%2fapp.py", "nothing.js", "__init__.py"])
def test_no_other_file_is_served(client, name):
    assert client.get(f"/page/{name}").status_code == 404
