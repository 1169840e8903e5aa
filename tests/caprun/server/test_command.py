"""`caprun serve`: its help and options, and the one line that reports why it cannot serve."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import NoReturn

import pytest
from click.testing import CliRunner
from PIL import Image

from caprun import cli
from caprun.errors import CaprunError
from caprun.server.settings import Settings
from tests.caprun.commands.test_startup import imported_by
from tests.caprun.server.support.serving import LONG, command, serving


def fails(bundle: Path, *options: object, **environment: str) -> tuple[int, str]:
    """Returns the exit code of the command and its error, which must be its only line of output."""
    done = subprocess.run(
        command(bundle, *options),
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return done.returncode, line.removeprefix("Error: ")


def test_its_help_imports_no_heavy_module() -> None:
    heavy = {"numpy", "PIL", "onnxruntime", "fastapi", "uvicorn", "prometheus_client", "asyncio", "caprun.engine"}
    assert not imported_by("serve", "--help") & heavy


def test_its_help_shows_the_defaults_of_the_settings() -> None:
    shown = " ".join(CliRunner().invoke(cli.main, ["serve", "--help"], terminal_width=200).output.split())
    options = {option.name for option in cli.main.commands["serve"].params}
    for field in fields(Settings):
        if field.name in options and isinstance(field.default, int | float):
            option = "--" + field.name.replace("_", "-")
            stated = re.search(rf"{option} [^\[]*(?:\[[\d.<=x]+\])?[^\[]*\[default: ([\d.]+)[\];]", shown)
            assert stated, (option, shown)
            assert float(stated[1]) == field.default


def test_a_file_named_serve_is_captioned_when_given_as_a_path(tiny: Path, photo: Path, tmp_path: Path) -> None:
    shutil.copy(photo, tmp_path / "serve")
    done = subprocess.run(
        [sys.executable, "-m", "caprun", "--model", tiny, "--device", "cpu", "./serve"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip()


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = dict.fromkeys(("uvicorn", "jinja2", "prometheus_client", "python_multipart"), object())
    monkeypatch.setattr("importlib.util.find_spec", lambda name: found.get(name))
    result = CliRunner().invoke(cli.main, ["serve"])
    assert result.exit_code == 1
    assert result.stderr == 'Error: fastapi must be installed to serve: pip install "captioner[serve]".\n'


@pytest.fixture
def installed() -> None:
    pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")


NONSENSE = [
    *("--port=65536", "--port=-1", "--port=http", "--workers=0", "--threads=0", "--queue=0", "--batch-size=0"),
    *("--deadline=0", "--grace=-1", "--grace=nan", "--drain=nan", "--body-timeout=inf", "--max-bytes=0"),
    *("--beam=3", "photo.jpg"),
]


@pytest.mark.usefixtures("installed")
class TestWhatCannotBeServed:
    def test_a_port_in_use_is_refused(self, tiny: Path) -> None:
        with serving(tiny) as other:
            expected = f"Port {other.port} is in use at 127.0.0.1; give another with --port, or 0 for any free port."
            assert fails(tiny, "--port", other.port) == (1, expected)

    @pytest.mark.parametrize("host", ["8.8.8.8", "2001:db8::1"])
    def test_an_address_of_another_machine_is_refused(self, tiny: Path, host: str) -> None:
        code, sentence = fails(tiny, "--host", host)
        assert (code, sentence.split(" ")[0]) == (2, host)
        assert "--host" in sentence

    @pytest.mark.parametrize("host", ["no.such.host.invalid", "", "a b", "256.1.1.1", "x" * 300, "ä.invalid", "\udcff"])
    def test_an_unknown_host_is_refused(self, tiny: Path, host: str) -> None:
        code, sentence = fails(tiny, f"--host={host}")
        assert (code, sentence.startswith("The host ")) == (2, True), sentence

    def test_a_damaged_bundle_is_refused(self, bundle: Path) -> None:
        graph = next(bundle.glob("encoder_model.onnx"))
        data = bytearray(graph.read_bytes())
        data[len(data) // 2] ^= 1
        graph.write_bytes(data)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        code, sentence = fails(bundle, "--port", port)
        assert (code, "encoder_model.onnx" in sentence) == (1, True)

    def test_a_missing_bundle_is_refused(self, tmp_path: Path) -> None:
        code, sentence = fails(tmp_path / "none")
        assert (code, "none" in sentence) == (1, True)

    def test_a_precision_that_the_bundle_lacks_is_refused(self, tiny: Path) -> None:
        code, sentence = fails(tiny, "--precision", "int3")
        assert (code, "int3" in sentence) == (1, True)

    def test_more_threads_than_cores_are_refused(self, tiny: Path) -> None:
        code, sentence = fails(tiny, "--threads", 5000)
        assert (code, "needs 5000 cores" in sentence) == (2, True)

    def test_more_workers_than_cores_are_refused(self, tiny: Path) -> None:
        code, sentence = fails(tiny, "--workers", 1000)
        assert (code, "needs 1000 cores" in sentence) == (2, True)

    @pytest.mark.parametrize("option", NONSENSE)
    def test_an_invalid_option_is_refused_before_the_port_is_taken(
        self, tiny: Path, option: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("caprun.server.listening.bind", lambda *_: pytest.fail("it was taken"))
        result = CliRunner().invoke(cli.main, ["serve", "--model", str(tiny), option])
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert result.stderr.endswith("serve --help`.\n")

    def test_a_missing_temporary_folder_for_metrics_is_reported(
        self, tiny: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        import tempfile

        from caprun.server import workers
        from caprun.server.placement import Placement

        def none(prefix: str, **_: object) -> NoReturn:
            raise FileNotFoundError(f"No usable temporary directory found for {prefix}")

        monkeypatch.setattr(tempfile, "TemporaryDirectory", none)
        monkeypatch.setattr(workers.Supervisor, "_start", lambda *_: pytest.fail("a worker was started"))
        monkeypatch.setattr("caprun.server.placement.divide", lambda *_: [Placement(1), Placement(1)])
        result = CliRunner().invoke(cli.main, ["serve", "--workers", "2", "--port", "0", "--model", str(tiny)])
        assert (result.exit_code, "set TMPDIR" in result.stderr) == (1, True)


@pytest.mark.usefixtures("installed")
def test_it_listens_on_the_given_host(tiny: Path) -> None:
    with serving(tiny, "--host", "localhost") as service:
        assert service.get("/healthz").status == 200
    with serving(tiny, "--host", "0.0.0.0") as service:
        assert service.wait_for("http://0.0.0.0:")
        assert service.get("/healthz").status == 200


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("host", ["::1", "::"])
def test_it_listens_on_ipv6_addresses(tiny: Path, host: str) -> None:
    try:
        socket.create_server((host, 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6: {error}")
    with serving(tiny, "--host", host) as service:
        service.wait_for(rf"http://\[{host}\]:")
        with socket.create_connection(("::1", service.port), LONG):
            pass


@pytest.mark.usefixtures("installed")
def test_prometheus_multiproc_dir_of_the_environment_is_not_used(tiny: Path, tmp_path: Path) -> None:
    with serving(tiny, environment={"PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "none")}) as service:
        assert service.get("/metrics").status == 200


def test_sigterm_has_a_handler_while_the_model_loads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first process of a container would otherwise ignore SIGTERM."""
    before, during = signal.getsignal(signal.SIGTERM), []

    def load(*_: object, **__: object) -> NoReturn:
        during.append(signal.getsignal(signal.SIGTERM))
        raise CaprunError("enough")

    monkeypatch.setattr("caprun.engine.Captioner.load", load)
    try:
        CliRunner().invoke(cli.main, ["serve", "--port", "0"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert callable(*during)


def test_the_given_limits_are_enforced_and_reported(tiny: Path, tmp_path: Path) -> None:
    Image.new("RGB", (300, 300)).save(tmp_path / "photo.bmp")
    with serving(tiny, "--max-bytes", 1000, "--max-photos", 2) as service:
        assert service.post((tmp_path / "photo.bmp").read_bytes()).status == 413
        limits = json.loads(service.get("/v1/model").body)["limits"]
        assert (limits["max_bytes"], limits["max_photos"]) == (1000, 2)
