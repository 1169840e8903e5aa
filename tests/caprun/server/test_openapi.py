"""The OpenAPI description is complete and correct, and its page loads nothing from other hosts."""

import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from caprun import Captioner
from caprun.search.options import SEARCH_OPTIONS
from tests.caprun.server.support.service import PHOTO, Running, running
from tests.caprun.server.support.serving import serving

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def service() -> Iterator[Running]:
    with running(Captioner.load(ROOT / "tests" / "tiny" / "bundle", device="cpu", threads=1)) as found:
        yield found


@pytest.fixture(scope="module")
def api(service: Running) -> dict[str, Any]:
    return dict(service.client.get("/openapi.json").json())


@pytest.mark.slow
def test_schemathesis_finds_no_failures(tmp_path: Path) -> None:
    """Runs all checks of the `st` command, with few examples of each kind and a fixed seed."""
    schemathesis = [str(Path(sys.executable).with_name("st")), f"--config-file={ROOT / 'schemathesis.toml'}", "run"]
    options = ["--checks=all", "--max-examples=15", "--seed=1", "--generation-database=none", "--no-color"]
    with serving(ROOT / "tests" / "tiny" / "bundle") as service:
        command = [*schemathesis, f"http://127.0.0.1:{service.port}/openapi.json", *options]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
        generated = re.search(r"(\d+) generated", done.stdout)
        assert generated, done.stdout
        assert int(generated[1]) > 200
        assert service.post(PHOTO).status == 200


def test_every_path_has_a_summary_and_describes_its_responses(api: dict[str, Any]) -> None:
    assert set(api["paths"]) == {"/v1/caption", "/v1/model", "/healthz", "/readyz", "/metrics"}
    for path, methods in api["paths"].items():
        for operation in methods.values():
            assert operation["summary"].endswith("."), path
            for status, answer in operation["responses"].items():
                assert answer["description"], path
                assert answer["content"], (path, status)
                if status in ("429", "503"):
                    assert answer["headers"]["Retry-After"]["required"]


def test_v1_caption_lists_all_its_statuses_bodies_and_options(api: dict[str, Any]) -> None:
    operation = api["paths"]["/v1/caption"]["post"]
    assert set(operation["responses"]) == {"200", "400", "401", "408", "413", "415", "422", "429", "500", "503"}
    content = operation["requestBody"]["content"]
    assert {"image/jpeg", "image/png", "image/webp", "image/gif", "image/bmp", "application/json"} <= set(content)
    assert content["application/json"]["schema"]["properties"]["photos"]["maxItems"] == 32
    parameters = {parameter["name"]: parameter["schema"] for parameter in operation["parameters"]}
    words = {name for name, option in SEARCH_OPTIONS.items() if option.kind == "words"}
    assert set(parameters) == SEARCH_OPTIONS.keys() - words | {"attention", "min_confidence"}
    assert parameters["beam_size"] == {"type": "integer", "minimum": 1, "maximum": 10, "default": 3}
    assert parameters["max_length"]["default"] == 12, "the model's own"
    for schema in parameters.values():
        assert "default" in schema
        assert schema["type"] == "boolean" or {"minimum", "maximum"} <= set(schema)


@pytest.mark.parametrize("edge", ["minimum", "maximum"])
def test_the_described_limits_of_each_option_are_the_enforced_ones(
    service: Running, api: dict[str, Any], edge: str
) -> None:
    for parameter in api["paths"]["/v1/caption"]["post"]["parameters"]:
        name, schema = parameter["name"], parameter["schema"]
        if schema["type"] == "boolean":
            continue
        beyond = schema[edge] + (1 if edge == "maximum" else -1)
        refused = service.caption(PHOTO, **{name: str(beyond)})
        assert refused.status_code == 422
        assert "it must be a" in refused.json()["error"], name
        at_edge = service.caption(PHOTO, **{name: str(schema[edge])})
        assert "it must be a number" not in at_edge.text, name
        assert "it must be a whole" not in at_edge.text, name


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.places: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("href", "src", "action"):
                self.places.append(value or "")
            if name == "id":
                self.ids.append(value or "")


def test_the_docs_page_lists_the_api_and_loads_nothing_from_other_hosts(service: Running, api: dict[str, Any]) -> None:
    answer = service.client.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    page = _Links()
    page.feed(answer.text)
    assert not {"script", "img", "iframe"} & set(page.tags)
    for place in page.places:
        if place.startswith("#"):
            assert place[1:] in page.ids
        else:
            assert not place.startswith("/"), "below a proxy's prefix it would lead elsewhere"
            assert service.client.get(f"/{place}").status_code == 200
    for path in api["paths"]:
        assert path in answer.text
    for parameter in api["paths"]["/v1/caption"]["post"]["parameters"]:
        assert f"<code>{parameter['name']}</code>" in answer.text
