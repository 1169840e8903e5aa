"""The nginx configuration from the documentation works, with the service below a path prefix."""

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from caprun import Captioner
from caprun.server.settings import Settings
from tests.caprun.server.support.service import PHOTO, Running, is_error, running
from tests.caprun.server.support.serving import LONG, until

GUIDE = Path(__file__).parents[3] / "docs" / "guides" / "serve-behind-a-proxy.md"


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    tiny = Captioner.load(Path(__file__).parents[2] / "tiny" / "bundle", device="cpu", threads=1)
    with running(tiny, Settings(max_bytes=20_000_000)) as found:
        yield found


@pytest.fixture(scope="module")
def proxy(service: Running, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    nginx = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if nginx is None:
        pytest.skip("nginx is not installed: apt-get install nginx")
    folder = tmp_path_factory.mktemp("nginx")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    found = re.search(r"```nginx\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    site = found[1].replace("127.0.0.1:8000", f"127.0.0.1:{service.port}").replace("8080", f"127.0.0.1:{port}")
    folders = "\n".join(
        f"{kind}_temp_path {folder / kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off;\npid {folder}/pid;\nerror_log {folder}/error.log;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{folders}\n{site}}}\n"
    )
    with subprocess.Popen([nginx, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]) as process:
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}/captions", timeout=LONG, trust_env=False) as client:
                until(lambda: process.poll() is not None or _answers(port))
                assert process.poll() is None, "nginx did not start"
                yield client
        finally:
            process.terminate()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_a_photo_is_captioned_through_the_proxy(proxy: httpx.Client, captioner: Captioner) -> None:
    assert proxy.post("/v1/caption", content=PHOTO).json()["caption"] == captioner.caption(PHOTO).text
    is_error(proxy.post("/v1/caption", content=b"no photo"), 415)


def test_the_page_and_the_description_work_below_the_prefix(proxy: httpx.Client) -> None:
    for page in ("/", "/docs"):
        links = re.findall(r'(?:href|src)="([^"#][^"]*)"', proxy.get(page).text)
        assert links
        for link in links:
            assert proxy.get(f"/{link.removeprefix('./')}").status_code == 200, (page, link)


def test_metrics_are_not_served_through_the_proxy(proxy: httpx.Client) -> None:
    assert proxy.get("/metrics").status_code == 403


def test_the_rate_of_a_client_is_limited(proxy: httpx.Client) -> None:
    assert {proxy.get("/healthz").status_code for _ in range(60)} == {200, 429}
