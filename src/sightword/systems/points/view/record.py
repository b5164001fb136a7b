"""A scene as one HTML file that opens without a server: viser's own player, with the points inside."""

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from sightword.errors import SightwordError
from sightword.storage.atomic import write_atomically

if TYPE_CHECKING:
    from viser.infra import StateSerializer

MARK = '<meta name="generator" content="sightword view">'
#: A browser that opens the file asks nobody for anything, whatever the player would like.
POLICY = (
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'unsafe-inline' 'unsafe-eval' "
    "'wasm-unsafe-eval' data: blob:; connect-src data: blob:; form-action 'none'\">"
)
CAPTION = (
    "position:fixed;left:12px;bottom:52px;max-width:380px;padding:4px 14px;background:rgba(255,255,255,.88);"
    "color:#24292f;font:14px/1.45 sans-serif;border-radius:6px;z-index:9"
)


def check_file(file: Path) -> None:
    """Raise SightwordError for a file that is not ours to write."""
    if file.suffix.lower() not in (".html", ".htm"):
        raise SightwordError(f"record={file} is not an HTML file. Pass a name that ends in .html")
    if file.is_dir():
        raise SightwordError(f"record={file} is a folder. Pass the name of a file")
    if file.exists():
        with open(file, encoding="utf-8", errors="replace") as found:
            if MARK not in found.read(4096):
                raise SightwordError(f"record={file} exists, and is no recording of sightword view. Pass another name")


def write_recording(serializer: "StateSerializer", file: Path, title: str, told: str) -> None:
    """Write what a serializer collected as one HTML file. told: HTML of a caption, its texts escaped."""
    page = serializer.as_html()
    head = f"<head>{MARK}{POLICY}<title>{escape(title)}</title>"
    caption = f'<div style="{CAPTION}"><p><b>{escape(title)}</b></p>{told}</div>'
    if page.count("<head>") != 1 or "</body>" not in page:
        raise SightwordError("this version of viser writes another HTML. Install: pip install 'viser==1.1.1'")
    start, end = page.replace("<title>Viser</title>", "").split("<head>")
    end, _, rest = end.rpartition("</body>")
    file.parent.mkdir(parents=True, exist_ok=True)
    with write_atomically(file) as part:
        part.write_text(f"{start}{head}{end}{caption}</body>{rest}", encoding="utf-8")
