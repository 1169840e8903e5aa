"""A command imports only what it needs and does not change the process."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from caprun.commands.startup import starting


def imported(code: str) -> set[str]:
    """Returns the modules loaded in a new Python process after it has run `code`."""
    code = f"import sys\ntry:\n    {code}\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def imported_by(*arguments: object) -> set[str]:
    """Returns the modules loaded by `caprun` with these arguments."""
    return imported(f"import caprun.cli; caprun.cli.main({[str(argument) for argument in arguments]})")


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_no_heavy_modules(option: str) -> None:
    modules = imported_by(option)
    assert "click" in modules
    heavy = {"numpy", "PIL", "onnxruntime", "importlib.metadata", "caprun.engine", "caprun.caption"}
    assert not modules & heavy


@pytest.mark.parametrize(("format_", "plugin"), [("PNG", "Png"), ("JPEG", "Jpeg"), ("BMP", "Bmp"), ("WEBP", "WebP")])
def test_captioning_imports_only_what_the_photo_format_needs(
    tiny: Path, picture: Image.Image, tmp_path: Path, format_: str, plugin: str
) -> None:
    photo = tmp_path / "photo"
    picture.save(photo, format=format_)
    modules = imported_by("--model", tiny, "--device", "cpu", photo)
    assert {"numpy", "onnxruntime", f"PIL.{plugin}ImagePlugin"} <= modules
    assert {name for name in modules if name.endswith("ImagePlugin")} == {f"PIL.{plugin}ImagePlugin"}
    beyond = {"torch", "importlib.metadata", "numpy.random", "caprun.batch.pipeline"}
    beyond |= {"caprun.commands.many_photos"}
    assert not (modules - imported("import numpy, PIL.Image, onnxruntime, click")) & beyond


def test_the_imports_of_a_command_start_no_threads() -> None:
    if not Path("/proc/self/task").is_dir():
        pytest.skip("threads are counted as Linux shows them")
    code = (
        "import os\nfrom caprun.commands.startup import starting\nwith starting():\n    import numpy\n"
        "print(len(os.listdir('/proc/self/task')))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "1\n"


@pytest.mark.parametrize("chosen", [None, "0"])
def test_onnx_runtime_telemetry_is_disabled_unless_the_user_chooses(chosen: str | None) -> None:
    name = "ORT_DISABLE_TELEMETRY"
    environment = {key: value for key, value in os.environ.items() if key != name}
    code = f"import os\nfrom caprun.inference.session import onnxruntime\nonnxruntime()\nprint(os.environ['{name}'])"
    asked = environment if chosen is None else environment | {name: chosen}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=asked)
    assert done.stdout.strip() == (chosen or "1")


def test_no_warning_is_printed_without_a_home_folder(tiny: Path, picture: Image.Image, tmp_path: Path) -> None:
    """In many containers ONNX Runtime cannot store its telemetry id, and would print a warning."""
    picture.save(tmp_path / "photo.png")
    home = {"HOME": os.devnull, "XDG_CACHE_HOME": os.devnull}
    command = [sys.executable, "-m", "caprun", "--model", str(tiny), "--device", "cpu", str(tmp_path / "photo.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | home)
    assert done.stdout
    assert done.stderr == ""


def test_captioning_leaves_no_files_in_home_cache_or_temporary_folders(
    tiny: Path, picture: Image.Image, tmp_path: Path
) -> None:
    picture.save(tmp_path / "photo.png")
    home = tmp_path / "home"
    home.mkdir()
    places = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "TMPDIR", "LOCALAPPDATA"), str(home))
    command = [sys.executable, "-m", "caprun", "--model", str(tiny), "--device", "cpu", str(tmp_path / "photo.png")]
    subprocess.run(command, capture_output=True, check=True, env=os.environ | places)
    assert list(home.iterdir()) == []


@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_closed_standard_streams_are_like_the_null_device(tiny: Path, picture: Image.Image, tmp_path: Path) -> None:
    picture.save(tmp_path / "photo.png")
    rows = tmp_path / "rows.jsonl"
    base = f"'{sys.executable}' -m caprun --model '{tiny}' --device cpu '{tmp_path}'"
    for command in (f"{base} --output '{rows}' <&- >&- 2>&-", f"{base} --xmp >&-"):
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
        assert "Error" not in done.stderr
    assert len(rows.read_text().splitlines()) == 1


@pytest.mark.parametrize("chosen", [None, "3"])
def test_the_environment_is_restored_for_processes_started_later(
    monkeypatch: pytest.MonkeyPatch, chosen: str | None
) -> None:
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    if chosen:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", chosen)
    with starting():
        assert os.environ["OPENBLAS_NUM_THREADS"] == (chosen or "1")
    assert os.environ.get("OPENBLAS_NUM_THREADS") == chosen


@pytest.mark.parametrize("collecting", [True, False])
def test_garbage_collection_resumes_only_if_it_was_enabled_before(collecting: bool) -> None:
    if not collecting:
        gc.disable()
    try:
        with pytest.raises(KeyError), starting():
            raise KeyError
        assert gc.isenabled() is collecting
    finally:
        gc.enable()


def test_objects_loaded_at_startup_are_frozen_and_later_objects_are_not() -> None:
    code = (
        "import gc\nfrom caprun.commands.startup import starting\n"
        "with starting(): pass\n"
        "first = gc.get_freeze_count()\n"
        "later = [[] for _ in range(1000)]\n"
        "with starting(): pass\n"
        "print(first > 1000, gc.get_freeze_count() == first)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True True\n"


def test_a_missing_model_is_reported_before_a_missing_photo(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "caprun", "--model", tmp_path / "model", tmp_path / "photo.jpg"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: There is no bundle at {tmp_path / 'model'}")
