"""The page over HTTP: its files and their headers, and that every installation includes it."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("httpx", reason="httpx is not installed")

from fastapi.testclient import TestClient

from caprun import Captioner
from caprun.server.app import Service, create_app
from caprun.server.middleware import PAGE_HEADERS

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "runtime/caprun/server/page"
PATHS = sorted("/" if file.name == "index.html" else f"/page/{file.name}" for file in FOLDER.iterdir())


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    tiny = Captioner.load(Path(__file__).parents[2] / "tiny" / "bundle", device="cpu", threads=1)
    with TestClient(create_app(Service(tiny))) as client:
        yield client


def policy(client: TestClient) -> dict[str, str]:
    """Returns the sources of the page's Content-Security-Policy by directive."""
    parts = client.get("/").headers["content-security-policy"].split(";")
    return {name: rest for name, _, rest in (part.strip().partition(" ") for part in parts)}


def test_every_file_of_the_page_is_served_unchanged(client: TestClient) -> None:
    for file in FOLDER.iterdir():
        answer = client.get("/" if file.name == "index.html" else f"/page/{file.name}")
        assert answer.status_code == 200, file
        assert answer.content == file.read_bytes()


def test_every_file_has_its_content_type_and_nosniff(client: TestClient) -> None:
    kinds = {path: client.get(path).headers["content-type"] for path in PATHS}
    assert kinds["/"] == "text/html; charset=utf-8"
    assert kinds["/page/page.css"] == "text/css; charset=utf-8"
    assert kinds["/page/page.js"].partition(";")[0] in {"text/javascript", "application/javascript"}
    assert kinds["/page/icon.svg"] == "image/svg+xml"
    assert {client.get(path).headers["x-content-type-options"] for path in PATHS} == {"nosniff"}


@pytest.mark.parametrize("path", PATHS)
def test_every_response_has_the_headers_of_the_page(client: TestClient, path: str) -> None:
    answer = client.get(path)
    unchanged = client.get(path, headers={"If-None-Match": answer.headers["etag"]})
    for response in (answer, unchanged, client.head(path)):
        assert PAGE_HEADERS.items() <= {k.title(): v for k, v in response.headers.items()}.items()


def test_the_policy_allows_only_this_service_and_blob_images(client: TestClient) -> None:
    sources = policy(client)
    assert sources["default-src"] == "'none'"
    assert sources["img-src"] == "'self' blob:"
    for directive in ("script-src", "style-src", "connect-src"):
        assert sources[directive] == "'self'"
    for directive in ("base-uri", "form-action", "frame-ancestors"):
        assert sources[directive] == "'none'"
    assert not re.search("unsafe|https?:|data:|\\*", " ".join(sources.values()))


def test_the_page_has_nothing_inline_and_loads_only_its_own_files() -> None:
    class Reader(HTMLParser):
        inline = ""
        within = ""

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.within = tag
            for name, value in attrs:
                assert name != "style", f"<{tag} style> is refused by the policy"
                assert not name.startswith("on"), f"<{tag} {name}> is refused by the policy"
                if name in ("src", "href") and tag != "a":
                    assert f"/{value}" in PATHS, f"<{tag}> asks for {value}"

        def handle_data(self, data: str) -> None:
            if self.within in ("script", "style"):
                self.inline += data.strip()

    reader = Reader()
    reader.feed((FOLDER / "index.html").read_text(encoding="utf-8"))
    assert not reader.inline
    for file in FOLDER.glob("*.js"):
        text = file.read_text(encoding="utf-8")
        for name in re.findall(r'from "\./(.+?)"', text):
            assert f"/page/{name}" in PATHS
        assert not re.search(r"https?://|innerHTML|\beval\b", text), file
    assert not re.search(r"https?://|@import|url\(", (FOLDER / "page.css").read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", PATHS)
def test_a_file_that_has_not_changed_is_not_sent_again(client: TestClient, path: str) -> None:
    first = client.get(path)
    assert first.headers["cache-control"] == "no-cache"
    again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get(path, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/page/",
        "/page",
        "/page/../settings.py",
        "/page/%2e%2e/settings.py",
        "/page/..%2fsettings.py",
        "/page/..%5csettings.py",
        "/page/%2fetc%2fpasswd",
        "/page//etc/passwd",
        "/page/page.js%00.css",
        "/page/PAGE.JS",
        "/page.py",
        "/index.html",
    ],
)
def test_no_other_path_is_served(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 404


def test_the_page_refuses_post_put_and_delete(client: TestClient) -> None:
    for method in ("POST", "PUT", "DELETE"):
        assert client.request(method, "/").status_code == 405


def test_the_page_is_not_part_of_the_api_description(client: TestClient) -> None:
    assert not {path for path in client.get("/openapi.json").json()["paths"] if path in PATHS}


def test_the_page_is_small() -> None:
    assert sum(file.stat().st_size for file in FOLDER.iterdir()) < 60_000


def test_the_wheel_includes_the_page() -> None:
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed")
    inside = {file.distribution_path for file in wheel.WheelBuilder(str(ROOT)).recurse_included_files()}
    for file in FOLDER.iterdir():
        assert f"caprun/server/page/{file.name}" in inside


def test_no_file_of_the_page_is_ignored_by_git() -> None:
    if not shutil.which("git") or not (ROOT / ".git").exists():
        pytest.skip("this is no clone")
    ignored = subprocess.run(["git", "-C", ROOT, "check-ignore", *FOLDER.iterdir()], capture_output=True, text=True)
    assert ignored.stdout == ""


def test_scripts_parse() -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed")
    for file in FOLDER.glob("*.js"):
        checked = subprocess.run([node, "--check", "--input-type=module"], input=file.read_bytes(), capture_output=True)
        assert checked.returncode == 0, checked.stderr.decode()
