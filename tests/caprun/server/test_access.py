"""Access to a service: API keys, allowed origins, path prefixes and Unix sockets."""

import http.client
import re
import socket
from pathlib import Path

import pytest

from caprun import Captioner
from caprun.errors import CaprunError
from caprun.server import listening
from caprun.server.settings import Settings
from tests.caprun.server.support.service import PHOTO, is_error, running
from tests.caprun.server.support.serving import LONG, head, read_answers, serving, until
from tests.caprun.server.test_command import fails

ORIGIN = {"Origin": "https://example.org"}


def test_only_the_api_requires_the_key(captioner: Captioner) -> None:
    with running(captioner, Settings(api_key="secret")) as service:
        for wrong in ({}, {"Authorization": "Bearer sécret".encode()}, {"Authorization": "Basic secret"}):
            answer = service.client.post("/v1/caption", content=PHOTO, headers=wrong)
            is_error(answer, 401, "Authorization: Bearer KEY")
            assert answer.headers["www-authenticate"] == "Bearer"
        is_error(service.client.get("/v1/model"), 401)
        right = {"Authorization": "Bearer secret"}
        assert service.client.post("/v1/caption", content=PHOTO, headers=right).status_code == 200
        assert {service.client.get(path).status_code for path in ("/", "/docs", "/healthz", "/readyz", "/metrics")} == {
            200
        }
        assert service.metric('caprun_requests_total{code="401",path="/v1/caption"}') == 3


def test_the_key_is_read_from_the_file_or_else_from_the_environment(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("\ufeffsecret\r\n")
    with serving(tiny, "--api-key", tmp_path / "key", environment={"CAPRUN_API_KEY": "other"}) as service:
        assert service.get("/v1/model", Authorization="Bearer secret").status == 200
        assert service.get("/v1/model", Authorization="Bearer other").status == 401
    with serving(tiny, environment={"CAPRUN_API_KEY": "other\n"}) as service:
        assert service.get("/v1/model", Authorization="Bearer other").status == 200


def test_a_missing_or_empty_key_is_refused(tiny: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    assert fails(tiny, "--api-key", tmp_path / "empty")[0] == 2
    assert fails(tiny, "--api-key", tmp_path / "none")[0] == 2
    assert fails(tiny, CAPRUN_API_KEY=" ")[0] == 2


def test_a_key_with_other_than_ascii_letters_is_refused(tiny: Path, tmp_path: Path) -> None:
    """Browsers send it in Latin-1, and curl in UTF-8."""
    (tmp_path / "key").write_text("kéy", encoding="utf-8")
    for source, answer in (
        (tmp_path / "key", fails(tiny, "--api-key", tmp_path / "key")),
        ("$CAPRUN_API_KEY", fails(tiny, CAPRUN_API_KEY="kéy")),
    ):
        expected = f"The API key in {source} is not ASCII, so some clients cannot send it; choose another key."
        assert answer == (2, expected)


def test_only_allowed_origins_get_cors_headers(captioner: Captioner) -> None:
    with running(captioner, Settings(cors_origins=("https://example.org",), api_key="key")) as service:
        preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        answer = service.client.options("/v1/caption", headers={**ORIGIN, **preflight})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == "https://example.org"
        refused = service.client.post("/v1/caption", content=PHOTO, headers=ORIGIN)
        assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://example.org")
        other = service.client.get("/healthz", headers={"Origin": "https://elsewhere.example"})
        assert "access-control-allow-origin" not in other.headers


def test_origins_are_normalised_and_an_invalid_one_is_refused(tiny: Path) -> None:
    assert Settings(cors_origins=("https://Example.org/", "*", "null")).cors_origins == (
        "https://example.org",
        "*",
        "null",
    )
    code, sentence = fails(tiny, "--cors-origin", "example.org")
    assert code == 2
    assert "--cors-origin example.org is not an origin; write one such as https://example.org" in sentence


def test_the_prefix_can_stay_in_the_path_or_be_empty(captioner: Captioner) -> None:
    assert Settings(root_path="/").root_path == ""
    with running(captioner, Settings(root_path="captions")) as service:
        assert service.client.post("/captions/v1/caption", content=PHOTO).status_code == 200
        for path in ("/captions/", "/captions/docs", "/captions/page/page.js"):
            assert service.client.get(path).status_code == 200
        assert service.client.get("/captionsx/docs").status_code == 404
        assert service.metric('caprun_requests_total{code="200",path="/v1/caption"}') == 1


def test_paths_without_the_prefix_work_and_the_description_names_it(captioner: Captioner) -> None:
    with running(captioner, Settings(root_path="captions/")) as service:
        assert service.caption(PHOTO).status_code == 200
        assert service.client.get("/page/page.js").status_code == 200
        assert service.client.get("/openapi.json").json()["servers"] == [{"url": "/captions"}]
        assert service.client.options("/v1/caption").headers["allow"] == "OPTIONS, POST, PUT"
        assert service.metric('caprun_requests_total{code="200",path="/v1/caption"}') == 1


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_every_link_is_relative(captioner: Captioner, path: str) -> None:
    with running(captioner) as service:
        assert not re.search(r'(?:href|src)="(?:/|https?:)', service.client.get(path).text)


def test_it_serves_on_a_unix_socket_replaces_a_stale_one_and_removes_it(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "caprun.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with serving(tiny, "--uds", path, "--drain", 0, listens=rf"Serving .* at unix:{path};") as service:
        connection = http.client.HTTPConnection("localhost", timeout=LONG)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(str(path))
        connection.request("POST", "/v1/caption", PHOTO)
        assert connection.getresponse().status == 200
        connection.close()
        assert path.stat().st_mode & 0o777 == 0o666  # a proxy runs as another user
        service.signal()
        assert service.ends() == 0
    assert not path.exists()


@pytest.mark.parametrize("workers", [1, 2])
def test_a_service_that_ends_leaves_the_unix_socket_of_its_successor(tiny: Path, tmp_path: Path, workers: int) -> None:
    path = tmp_path / "caprun.sock"
    said = rf"Serving .* at unix:{path}[,;]"
    options = ("--uds", path, "--drain", 0, "--workers", workers)
    with serving(tiny, *options, listens=said) as service, socket.socket(socket.AF_UNIX) as begun:
        begun.connect(str(path))
        begun.sendall(head("/v1/caption", "POST", f"Content-Length: {len(PHOTO)}"))
        service.signal()
        until(lambda: not path.exists())
        with serving(tiny, "--uds", path, listens=said):
            begun.sendall(PHOTO)
            (answer,) = read_answers(begun)
            assert answer.status == 200
            assert service.ends() == 0
            assert path.exists()


def test_a_unix_socket_in_use_and_an_ordinary_file_are_not_replaced(tmp_path: Path) -> None:
    with listening.bind_unix(str(tmp_path / "used")) as used:
        used.listen()
        with pytest.raises(CaprunError, match="in use"):
            listening.bind_unix(str(tmp_path / "used"))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CaprunError, match="in use"):
        listening.bind_unix(str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "mine"
