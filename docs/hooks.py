"""What MkDocs adds to the site: two scripts from this machine, which Material loads from another host otherwise."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

_MERMAID = "assets/javascripts/mermaid.js"
_WORKER = "assets/javascripts/iframe-worker.js"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name both scripts: one draws the diagrams, with the other the search works on pages opened as files."""
    config.extra_javascript.append(_MERMAID)
    config.extra["polyfills"] = [_WORKER]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Copy what `make docs` put into the environment."""
    for place in (_MERMAID, _WORKER):
        script = Path(sys.prefix) / "share" / "site" / Path(place).name
        if not script.exists():
            raise PluginError(f"{script.name} is not installed; run `make docs`")
        files.append(File.generated(config, place, abs_src_path=str(script)))
    return files
