"""Request bodies: photos and options as programs and people send them."""

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

import pytest
from PIL import Image

from caprun import Captioner, SearchOptions
from caprun.server.body import BodyHead, read_upload
from caprun.server.refusal import Refusal
from caprun.server.settings import Settings
from tests.caprun.photos.support.encoding import encode
from tests.caprun.server.support.service import JSON, PHOTO, Running, is_error, photos, running

JPEG = encode(Image.effect_noise((200, 200), 90).convert("RGB"), "JPEG")
ONE, TWO = photos(2)
FORM = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    tiny = Captioner.load(Path(__file__).parents[2] / "tiny" / "bundle", device="cpu", threads=1)
    with running(tiny, Settings(max_photos=4)) as found:
        yield found


def curl(service: Running, folder: Path, *options: str) -> Any:
    (folder / "photo.png").write_bytes(ONE)
    (folder / "photo.jpg").write_bytes(JPEG)
    (folder / "photo.txt").write_bytes(base64.encodebytes(ONE))
    command = ["curl", "-sS", "-m", "60", *options, f"http://127.0.0.1:{service.port}/v1/caption"]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    except FileNotFoundError:
        pytest.skip("curl is not installed")
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "options",
    [
        ["--data-binary", "@photo.png"],
        ["-T", "photo.png"],
        ["-F", "photo=@photo.png"],
        ["-F", "file=@photo.png;type=text/plain"],
        ["-F", "photo=<photo.png"],
        ["-F", "photo=@photo.png", "-H", "Content-Type: multipart/form-data"],
        ["-F", "photo=@photo.png", "-H", "Content-Type: application/json"],
        ["-F", "photo=@photo.png", "-H", "Content-Type:"],
        ["-F", "photo=<photo.txt"],
        ["--data-binary", "@photo.txt"],
        ["--data-urlencode", "photo@photo.txt"],
        ["--data-urlencode", "photo@photo.png"],
    ],
)
def test_a_photo_is_accepted_in_each_way_that_curl_sends_it(
    service: Running, captioner: Captioner, tmp_path: Path, options: list[str]
) -> None:
    assert curl(service, tmp_path, *options)["caption"] == captioner.caption(ONE).text


def test_a_gif_that_begins_like_a_form_field_is_a_photo() -> None:
    gif = encode(Image.new("RGB", (61, 8)), "GIF")
    assert gif.startswith((b"GIF87a=", b"GIF89a="))
    upload = read_upload(BodyHead(FORM, FORM, len(gif)), gif, Settings())
    assert (upload.photos, upload.is_list) == ([gif], False)


@pytest.mark.parametrize("photo", ["photo.png", "photo.jpg"])
@pytest.mark.parametrize("header", [[], ["-H", "Content-Type: image/jpeg"], ["-H", "Content-Type:"]])
def test_a_photo_damaged_by_curl_d_is_refused_with_a_hint_at_data_binary(
    service: Running, tmp_path: Path, photo: str, header: list[str]
) -> None:
    assert "send it with curl --data-binary" in curl(service, tmp_path, "-d", f"@{photo}", *header)["error"]


def test_a_form_can_have_options_and_several_photos(service: Running, captioner: Captioner) -> None:
    options = {"beam_size": "4", "n_best": "2"}
    one = service.client.post("/v1/caption", files={"photo": ONE}, data=options).json()
    expected = captioner.caption(ONE, SearchOptions(4, 12, 1.0, n_best=2))
    assert [one["caption"], one["alternatives"][0]["caption"]] == [expected.text, expected.alternatives[0].text]
    several = service.client.post("/v1/caption", files=[("photo", ONE), ("photo", b""), ("photo", TWO)]).json()[
        "results"
    ]
    assert several[0]["caption"] == captioner.caption(ONE).text
    assert "empty" in several[1]["error"]
    assert several[2]["caption"] == captioner.caption(TWO).text


@pytest.mark.parametrize(
    "kind",
    [
        *("application/json", "application/vnd.api+json; charset=utf-8", "application/x-www-form-urlencoded"),
        *("text/json", "text/plain;charset=UTF-8", "application/octet-stream", ""),
    ],
)
def test_json_is_accepted_under_any_content_type_and_can_have_options(
    service: Running, captioner: Captioner, kind: str
) -> None:
    body = {"photos": [base64.b64encode(ONE).decode()], "beam_size": 1, "attention": True, "min_length": "3"}
    answer = service.client.post("/v1/caption", content=json.dumps(body), headers={"Content-Type": kind}).json()
    (result,) = answer["results"]
    assert result["caption"] == captioner.caption(ONE, SearchOptions(1, 12, 1.0, min_length=3)).text
    assert result["attention_box"]


@pytest.mark.parametrize(
    "text",
    [
        base64.encodebytes(PHOTO).decode(),
        base64.encodebytes(PHOTO).decode().replace("\n", "\r\n"),
        base64.urlsafe_b64encode(PHOTO).decode(),
        base64.b64encode(PHOTO).decode().rstrip("="),
        "data:image/png;base64," + base64.b64encode(PHOTO).decode(),
        " DATA:image/png;base64,\n" + base64.b64encode(PHOTO).decode(),
    ],
)
def test_base64_in_lines_unpadded_url_safe_or_in_a_data_url_is_accepted(text: str) -> None:
    body = json.dumps({"photos": [text]}).encode()
    assert read_upload(BodyHead("", "application/json", None), body, Settings()).photos == [PHOTO]


@pytest.mark.parametrize(
    ("form", "status", "words"),
    [
        ({"files": {"photo": PHOTO}, "data": {"beam_size": "11"}}, 422, "from 1 to 10"),
        ({"files": {"photo": PHOTO}, "data": {"beams": "1"}}, 422, "no option 'beams'"),
        ({"files": [("photo", PHOTO)] * 5}, 413, "more than 4 photos"),
        ({"files": {"photo": b"no photo"}}, 415, "not a JPEG"),
        ({"files": {"beam_size": (None, "3")}}, 422, "no photo"),
        ({"files": {"photo": (None, "photo.jpg")}}, 422, "curl -F photo=@photo.jpg"),
        ({"data": {"photo": "@photo.jpg"}}, 422, "curl -F photo=@photo.jpg"),
        ({"content": PHOTO, "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 400, "not the form"),
        ({"content": PHOTO, "headers": {"Content-Type": "multipart/form-data"}}, 400, "not the form"),
        ({"content": PHOTO, "headers": {"Content-Type": "multipart/mixed; boundary=x"}}, 415, "multipart/form-data"),
    ],
)
def test_an_invalid_form_is_refused_in_one_line(
    service: Running, form: dict[str, Any], status: int, words: str
) -> None:
    is_error(service.client.post("/v1/caption", **form), status, words)


@pytest.mark.parametrize("photo", [ONE, base64.b64encode(ONE), base64.b64encode(ONE).replace(b"+", b"%2B")])
def test_a_urlencoded_form_can_have_a_photo_and_options(photo: bytes) -> None:
    sent = quote_from_bytes(photo).encode() if photo is ONE else photo
    upload = read_upload(BodyHead(FORM, FORM, None), b"beam_size=2&photo=" + sent, Settings())
    assert upload == ([ONE], [("beam_size", "2")], False)


def test_json_can_have_a_byte_order_mark_and_no_content_type() -> None:
    body = b"\xef\xbb\xbf" + json.dumps({"photos": [base64.b64encode(ONE).decode()]}).encode()
    assert read_upload(BodyHead("", "", None), body, Settings()).photos == [ONE]


def test_mistakes_of_clients_are_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(Refusal, match="not the form"):
        read_upload(BodyHead("multipart/form-data; boundary=y", "multipart/form-data", None), b"--x", Settings())
    assert not caplog.records


def test_an_option_in_both_the_query_and_the_body_is_refused(service: Running) -> None:
    body = json.dumps({"photos": ["QQ=="], "beam_size": 1})
    is_error(service.client.post("/v1/caption?beam_size=1", content=body, headers=JSON), 422, "given twice")


def test_a_form_of_too_many_small_parts_is_refused() -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n'
    head = BodyHead("multipart/form-data; boundary=x", "multipart/form-data", None)
    with pytest.raises(Refusal, match="more than 64 options"):
        read_upload(head, part * 100_000, Settings())


def test_a_large_form_is_kept_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.NamedTemporaryFile", lambda *_, **__: pytest.fail("a file was made"))
    monkeypatch.setattr("tempfile.TemporaryFile", lambda *_, **__: pytest.fail("a file was made"))
    head = BodyHead("multipart/form-data; boundary=x", "multipart/form-data", None)
    photo = bytes(range(256)) * 20_000
    disposition = b'Content-Disposition: form-data; name="photo"; filename="a.jpg"'
    body = b"--x\r\n%s\r\n\r\n%s\r\n--x--\r\n" % (disposition, photo)
    assert read_upload(head, body, Settings()).photos == [photo]
