"""The shell, its policy, and the vendored files, without a browser."""

import base64
import hashlib
import json
import re

from fastapi import FastAPI
from starlette.testclient import TestClient

from server.page import mount
from server.page.shell import SHEETS, STATIC, vendored


def _client() -> TestClient:
    app = FastAPI()
    mount(app)
    return TestClient(app)


def test_policy_allows_the_inline_import_map_and_no_other_inline_script() -> None:
    answer = _client().get("/")
    policy = answer.headers["content-security-policy"]
    inline = re.findall(r"<script type=\"importmap\">(.*?)</script>", answer.text, re.S)
    assert len(inline) == 1
    assert f"'sha256-{base64.b64encode(hashlib.sha256(inline[0].encode()).digest()).decode()}'" in policy
    assert "unsafe" not in policy
    assert "default-src 'self'" in policy


def test_shell_names_only_files_of_this_server_and_all_of_them_exist() -> None:
    client = _client()
    html = client.get("/").text
    addresses = re.findall(r"(?:src|href)=\"([^\"]+)\"", html.split("<noscript>")[0])
    imports = json.loads(re.findall(r"importmap\">(.*?)</script>", html)[0])["imports"]
    for address in [*addresses, *imports.values()]:
        assert address.startswith("/static/"), address
        assert client.get(address).status_code == 200, address


def test_every_style_sheet_is_linked() -> None:
    assert {path.stem for path in (STATIC / "css").glob("*.css")} == set(SHEETS)


def test_vendored_files_are_those_of_the_manifest_with_their_licences() -> None:
    folder = STATIC / "vendor"
    files = vendored()
    for entry in files:
        content = (folder / entry.file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry.sha256, entry.file
        assert entry.version in entry.file
        assert len(content) < 1_000_000
        assert (folder / entry.licence_file).stat().st_size > 500
    scripts = {path.name for path in folder.glob("*.js")}
    assert scripts == {entry.file for entry in files}


def test_own_modules_write_no_markup_from_data() -> None:
    for path in (STATIC / "js").rglob("*.js"):
        source = path.read_text(encoding="utf-8")
        for forbidden in ("innerHTML", "outerHTML", "insertAdjacentHTML", "eval(", "dangerouslySetInnerHTML"):
            assert forbidden not in source, f"{path.name}: {forbidden}"
