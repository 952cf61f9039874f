"""The page's shell: one HTML document, the import map of the vendored modules, and the policy that guards both."""

import base64
import hashlib
import json
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from pydantic import BaseModel, ConfigDict, Field

from device_agent.contracts import Sha256

HERE = Path(__file__).parent
STATIC = HERE / "static"
STATIC_URL = "/static"
SHEETS = ("base", "layout", "parts", "findings", "leaderboard", "fleet", "runs", "curves", "curriculum")


class VendoredFile(BaseModel):
    """One third-party file, byte for byte as its npm package has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    imported_as: str | None = Field(default=None, alias="import")
    package: str
    version: str
    source: str = Field(description="Its path inside the npm package")
    sha256: Sha256
    licence: str
    licence_file: str


def vendored() -> list[VendoredFile]:
    """The manifest of `static/vendor`."""
    manifest = json.loads((STATIC / "vendor" / "manifest.json").read_text(encoding="utf-8"))
    return [VendoredFile.model_validate(entry) for entry in manifest["files"]]


def import_map(files: list[VendoredFile]) -> str:
    """The JSON that tells the browser where bare module names lie."""
    imports = {f.imported_as: f"{STATIC_URL}/vendor/{f.file}" for f in files if f.imported_as}
    return json.dumps({"imports": imports}, separators=(",", ":"))


def policy(inline_script: str) -> str:
    """The Content-Security-Policy: all from this server, and the one inline script by its hash (CSP 3, 6.7.2)."""
    digest = base64.b64encode(hashlib.sha256(inline_script.encode()).digest()).decode()
    return "; ".join(
        [
            "default-src 'self'",
            f"script-src 'self' 'sha256-{digest}'",
            "object-src 'none'",
            "base-uri 'none'",
            "form-action 'self'",
            "frame-ancestors 'none'",
        ]
    )


def render() -> tuple[str, str]:
    """The document, and the policy to send with it."""
    files = vendored()
    modules = import_map(files)
    plot_script = next(f.file for f in files if f.package == "echarts")
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"), autoescape=select_autoescape(), undefined=StrictUndefined
    )
    html = environment.get_template("page.html").render(
        static=STATIC_URL, sheets=SHEETS, import_map=modules, plot_script=plot_script
    )
    return html, policy(modules)
