"""The page that loads the browser's part, and the scripts that it needs first."""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import msgspec
from starlette.responses import HTMLResponse, PlainTextResponse, Response

if TYPE_CHECKING:
    from starlette.requests import Request

STATIC = files("tatame_db.studio") / "static"


class _Build(msgspec.Struct):
    pages: dict[str, list[str]]
    """The scripts of each page that is loaded when it is first shown, and of the frame, `studio`."""


async def index_page(request: Request) -> Response:
    """Return the page at every address outside the API."""
    try:
        page = (STATIC / "index.html").read_text(encoding="utf-8")
        scripts = scripts_of(request.url.path)
    except FileNotFoundError:
        return PlainTextResponse("The pages of the studio are not built: run `make studio-assets`.", 500)
    # Otherwise the browser finds each script only when the one that imports it has arrived.
    preloads = "\n".join(f'<link rel="modulepreload" href="/static/{name}">' for name in scripts)
    return HTMLResponse(page.replace("{{preloads}}", preloads).replace("{{nonce}}", request.scope["nonce"]))


def scripts_of(path: str) -> list[str]:
    """Return the scripts of the page at an address."""
    first, *rest = path.strip("/").split("/")
    page = ("rows" if len(rest) == 1 else "row") if first == "t" else first
    built = _built().pages
    return sorted({*built["studio"], *built.get(page, [])})


@cache
def _built() -> _Build:
    return msgspec.json.decode((STATIC / "build.json").read_bytes(), type=_Build)
