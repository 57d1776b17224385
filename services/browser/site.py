"""The folder of static files: the page of services/web with the model where its server was.

The scripts of services/browser/page stand beside those of services/web, and its server.js in the place of theirs.
sizes.json says how large the large files are, for the page's progress.
"""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from captioner.atomic import write_json, write_text
from captioner.bundle import ANSWERER_FILES, MANIFEST, Bundle

PAGE = Path(__file__).with_name("page")
WEB = Path(__file__).parents[1] / "web"
SHARED = ("app.js", "attention.js", "icon.svg", "photo.js", "sentences.js", "style.css")
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; connect-src 'self'; "
    "style-src 'self'; img-src 'self' blob:; base-uri 'none'; form-action 'none'"
)
"""Nothing but the site's own files. A worker has that of its response's header, where there is one."""
MADE = "sizes.json"


def build(bundle: Bundle, runtime: Sequence[Path], out: Path) -> None:
    """Write the site; ValueError where the folder has files that no site has."""
    sources = [*(WEB / name for name in SHARED), *PAGE.glob("*.js"), *PAGE.glob("*.css"), *runtime, *_used(bundle)]
    if out.is_dir() and any(out.iterdir()) and not (out / MADE).is_file():
        raise ValueError(f"{out} is not empty and holds no site: name another folder")
    out.mkdir(parents=True, exist_ok=True)
    names = {source.name for source in sources} | {"index.html", MADE}
    for old in out.iterdir():
        if old.name not in names and old.is_file():
            old.unlink()
    large = {}
    for source in sources:
        shutil.copyfile(source, out / source.name)
        if source.suffix in (".onnx", ".wasm"):
            large[source.name] = source.stat().st_size
    write_text(out / "index.html", _index())
    write_json(out / MADE, large)


def sizes(out: Path) -> Iterator[tuple[str, int, int]]:
    """Name, bytes and bytes after gzip of each file, the largest first, and of all together."""
    total, packed = 0, 0
    for file in sorted(out.iterdir(), key=lambda file: -file.stat().st_size):
        content = file.read_bytes()
        small = len(gzip.compress(content, 9))
        total, packed = total + len(content), packed + small
        yield file.name, len(content), small
    yield "all", total, packed


def _used(bundle: Bundle) -> list[Path]:
    """The files of a bundle that the page fetches: those that Captioner.load would read."""
    names = [MANIFEST, "config.json"]
    names += ["vocabulary.json"] if bundle.model.captions else []
    names += ANSWERER_FILES if bundle.model.answerer is not None else []
    graphs = (bundle.graph(graph, bundle.precision) for graph in bundle.graphs)
    return [*(bundle.folder / name for name in names), *graphs]


def _index() -> str:
    """The page of services/web: with a policy and the model's progress, without the dialog for tokens."""
    html = (WEB / "index.html").read_text(encoding="utf-8")
    begin, _, rest = html.partition('<dialog id="token"')
    _, _, end = rest.partition("</dialog>\n\n")
    assert end, "services/web/index.html has no dialog for tokens"
    head = f'<meta http-equiv="content-security-policy" content="{POLICY}">'
    for place, more in (
        ('  <meta charset="utf-8">\n', f"  {head}\n"),
        ('  <link rel="stylesheet" href="style.css">\n', '  <link rel="stylesheet" href="loading.css">\n'),
    ):
        assert begin.count(place) == 1, f"services/web/index.html has no {place}"
        begin = begin.replace(place, place + more)
    return begin + (PAGE / "loading.html").read_text(encoding="utf-8") + "\n" + end
