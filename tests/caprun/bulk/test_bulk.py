"""A bulk job writes one row for every photo, even if workers are killed."""

import contextlib
import io
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from caprun import BundleError, CaprunError, Captioner, DeviceError, UsageError

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install '.[ray]'")
pytest.importorskip("ray.data", reason="Ray Data is not installed: pip install '.[ray]'")

import pyarrow as pa  # noqa: E402
from pyarrow import parquet  # noqa: E402

from caprun.bulk import job as bulk_job  # noqa: E402
from caprun.bulk.job import Summary, _cluster, _shares, caption_in_bulk  # noqa: E402
from caprun.bulk.worker import BulkOptions  # noqa: E402
from caprun.errors import OutputError  # noqa: E402
from caprun.inference.precisions import measured_on  # noqa: E402

TINY = Path(__file__).parents[2] / "tiny" / "bundle"
PHOTOS = 24

Rows = dict[Any, dict[str, Any]]


def deadly_photos() -> Callable[[], None]:
    """Returns a worker hook with which some photos kill the worker, once or always, or make it wait for a file."""

    def hook() -> None:
        import signal
        import time
        from pathlib import Path

        import caprun.engine

        load = caprun.engine.load

        def deadly(photo: Any, spec: Any) -> Any:
            path = Path(photo) if isinstance(photo, str) else Path()
            if path.name == "waits.png":
                while not path.with_suffix(".go").exists():
                    time.sleep(0.05)
            if path.name == "kills-once.png" and not path.with_suffix(".killed").exists():
                path.with_suffix(".killed").touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if path.name == "kills.png":
                os.kill(os.getpid(), signal.SIGKILL)
            return load(photo, spec)

        caprun.engine.load = deadly

    return hook


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """Starts a local Ray cluster for two workers; yields its address."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
        context = ray.init(
            address="local",
            num_cpus=5,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"worker_process_setup_hook": deadly_photos()},
        )
        yield context.address_info["gcs_address"]
        ray.shutdown()


def photos_in(folder: Path, *names: str) -> Path:
    folder.mkdir()
    patches = np.random.default_rng(0).integers(0, 256, (len(names), 4, 4, 3), np.uint8)
    for name, photo in zip(names, patches.repeat(8, 1).repeat(8, 2), strict=True):
        Image.fromarray(photo).save(folder / name)
    return folder


def caption(*inputs: object, output: Path, standard_input: bytes = b"", **more: Any) -> Summary:
    options = more.pop("options", BulkOptions(rows_per_file=5, workers=(1, 1)))
    arguments = [str(argument) for argument in inputs]
    model = more.pop("model", str(TINY))
    return caption_in_bulk(arguments, output, io.BytesIO(standard_input), replace(options, model=model, **more))


def rows_in(output: Path, key: str = "image") -> Rows:
    rows = parquet.read_table(output).to_pylist()
    by_key = {row[key]: row for row in rows}
    assert len(by_key) == len(rows)
    return by_key


def files_in(output: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in output.glob("*.parquet")}


@pytest.fixture(scope="module")
def job(cluster: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Summary]:
    """Runs a job in which workers are killed; returns the photos, the output and the summary."""
    folder = tmp_path_factory.mktemp("job")
    names = [f"{index:02} é.png" for index in range(PHOTOS - 3)]
    photos = photos_in(folder / "photos", *names, "kills-once.png", "kills.png")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    two = BulkOptions(rows_per_file=5, workers=(2, 2))
    summary = caption(photos, output=folder / "captions.parquet", options=two)
    return photos, folder / "captions.parquet", summary


@pytest.mark.slow
def test_each_photo_has_one_row_even_if_workers_are_killed(
    job: tuple[Path, Path, Summary], captioner: Captioner
) -> None:
    photos, output, summary = job
    assert (photos / "kills-once.killed").exists()
    assert summary == Summary(PHOTOS, 0, 2)
    rows = rows_in(output)
    assert set(rows) == {str(photo) for photo in photos.iterdir() if photo.suffix != ".killed"}
    for path, row in rows.items():
        if Path(path).name in ("broken.jpg", "kills.png"):
            continue
        alone = captioner.caption(path)
        assert (row["caption"], row["error"]) == (alone.text, None)
        assert row["log_prob"] == pytest.approx(alone.log_prob, abs=1e-4)
        assert [word["word"] for word in row["words"]] == [word.text for word in alone.words]


@pytest.mark.slow
def test_a_photo_that_cannot_be_read_is_a_row_with_its_error(job: tuple[Path, Path, Summary]) -> None:
    photos, output, _ = job
    row = rows_in(output)[str(photos / "broken.jpg")]
    assert "broken.jpg is damaged" in row.pop("error")
    assert row == {"image": str(photos / "broken.jpg")} | dict.fromkeys(list(row)[1:])


@pytest.mark.slow
def test_a_photo_that_kills_every_worker_is_a_row_with_its_error(job: tuple[Path, Path, Summary]) -> None:
    photos, output, _ = job
    assert "killed the process that read it" in rows_in(output)[str(photos / "kills.png")]["error"]


@pytest.mark.slow
def test_a_finished_job_is_not_repeated(job: tuple[Path, Path, Summary]) -> None:
    photos, output, _ = job
    before = files_in(output)
    assert caption(photos, output=output) == Summary(PHOTOS, PHOTOS, 2)
    assert files_in(output) == before


@pytest.mark.slow
def test_other_options_another_model_and_other_photos_are_refused(
    job: tuple[Path, Path, Summary], bundle: Path, edit_manifest: Callable[..., None]
) -> None:
    photos, output, _ = job
    before = files_in(output)
    with pytest.raises(UsageError, match=r"belongs to another run: beam_size 3 \(now 1\); give another --output"):
        caption(photos, output=output, search={"beam_size": 1})
    edit_manifest(bundle, lambda manifest: manifest.update(name="other"))
    with pytest.raises(UsageError, match=r"model tiny \w+ \(now other \w+\)"):
        caption(photos, output=output, model=str(bundle))
    with pytest.raises(UsageError, match=r"photos 24 \w+ \(now 1 \w+\)"):
        caption(photos / "broken.jpg", output=output)
    assert files_in(output) == before


@pytest.mark.slow
def test_rows_have_the_confidence_and_the_reason_for_abstaining(cluster: str, calibrated: Path, tmp_path: Path) -> None:
    photos = photos_in(tmp_path / "photos", *(f"{index}.png" for index in range(8)))
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    captioner = Captioner.load(calibrated, device="cpu", threads=1)
    alone = {str(path): captioner.caption(path) for path in photos.glob("*.png")}
    sure = {path for path, one in alone.items() if (one.confidence or 0) >= 0.4}
    assert 0 < len(sure) < 8
    more = {"model": str(calibrated), "search": {"n_best": 2}, "min_confidence": 0.4}
    summary = caption(photos, output=tmp_path / "out", **more)
    assert summary == Summary(9, 0, 1, 8 - len(sure))
    rows = rows_in(tmp_path / "out")
    for path, one in alone.items():
        row = rows[path]
        assert row["confidence"] == pytest.approx(one.confidence, abs=1e-5)
        assert (row["caption"] is not None) == (row["abstained"] is None) == (path in sure)
        assert (row["error"], row["alternatives"] is not None) == (None, path in sure)
        assert all(0 < other["confidence"] < 1 for other in row["alternatives"] or ())
        assert row["abstained"] is None or row["abstained"].startswith("The model abstains: ")
    assert rows[str(photos / "broken.jpg")]["abstained"] is None
    assert caption(photos, output=tmp_path / "out", **more) == Summary(9, 9, 1, 8 - len(sure))
    with pytest.raises(UsageError, match=r"another run: min confidence 0\.4 \(now none\)"):
        caption(photos, output=tmp_path / "out", **more | {"min_confidence": None})


def test_an_uncalibrated_model_is_refused_before_any_photo_is_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="The model tiny has no calibrated confidence; leave out"):
        caption(tmp_path / "nowhere.png", output=tmp_path / "out", min_confidence=0.4)
    assert not (tmp_path / "out").exists()


_JOB = """
import sys, ray
from tests.caprun.bulk.test_bulk import *
ray.init(sys.argv[1], log_to_driver=False, runtime_env={"worker_process_setup_hook": deadly_photos()})
caption(sys.argv[2], output=Path(sys.argv[3]), options=BulkOptions(rows_per_file=1, workers=(1, 1)))
"""


@pytest.mark.slow
def test_a_killed_job_resumes_with_the_missing_rows(cluster: str, tmp_path: Path) -> None:
    photos = photos_in(tmp_path / "photos", "a.png", "b.png", "c.png", "waits.png")
    output = tmp_path / "out"
    killed = subprocess.Popen([sys.executable, "-c", _JOB, cluster, str(photos), str(output)])
    try:
        begun = time.monotonic()
        while len(list((output / ".caprun" / "done").glob("*[0-9].parquet"))) < 3:
            assert killed.poll() is None
            assert time.monotonic() < begun + 600, "the job does not get on"
            time.sleep(0.05)
        before = files_in(output)
    finally:
        killed.send_signal(signal.SIGKILL)
        killed.wait()
    (photos / "waits.go").touch()
    assert caption(photos, output=output) == Summary(4, 3, 0)
    assert before.items() <= files_in(output).items()
    assert len(rows_in(output)) == 4


@pytest.mark.slow
def test_photos_in_parquet_files_are_captioned_under_their_ids(
    cluster: str, tmp_path: Path, captioner: Captioner
) -> None:
    photos = photos_in(tmp_path / "photos", *(f"{index}.png" for index in range(6)))
    images = [{"bytes": (photos / f"{index}.png").read_bytes(), "path": None} for index in range(5)]
    images += [{"bytes": None, "path": str(photos / "5.png")}, {"bytes": b"no photo", "path": None}, None]
    for part in range(2):
        rows = {"number": range(part * 4, part * 4 + 4), "photo": images[part * 4 : part * 4 + 4], "split": ["dev"] * 4}
        (tmp_path / "set #%20").mkdir(exist_ok=True)
        parquet.write_table(pa.table(rows), tmp_path / "set #%20" / f"{part} #1.parquet")
    output = tmp_path / "out é %20#"
    columns = {"image_column": "photo", "id_column": "number"}
    assert caption(tmp_path / "set #%20", output=output, **columns) == Summary(8, 0, 2)
    found = rows_in(output, "number")
    assert [number for number, row in sorted(found.items()) if row["error"]] == [6, 7]
    for index in range(6):
        assert found[index]["caption"] == captioner.caption(photos / f"{index}.png").text


@pytest.mark.slow
def test_an_error_in_a_worker_keeps_its_type_and_message(
    cluster: str, bundle: Path, photo: Path, tmp_path: Path
) -> None:
    graph = bundle / "encoder_model.onnx"
    content = bytearray(graph.read_bytes())
    content[-1] ^= 1
    graph.write_bytes(content)
    with pytest.raises(BundleError, match=r"encoder_model\.onnx .*(damaged|altered|checksum)"):
        caption(photo, output=tmp_path / "out", model=str(bundle))


@pytest.mark.slow
def test_an_address_without_a_cluster_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with (
            pytest.raises(CaprunError, match=f"Ray does not start at {address}: "),
            _cluster(BulkOptions(address=address)),
        ):
            pass


@pytest.mark.parametrize(
    ("cpus", "gpus", "device", "options", "shares"),
    [
        (11, 0, "cpu", BulkOptions(), (1, (8, 8))),
        (11, 0, "cpu", BulkOptions(threads=3), (3, (2, 2))),
        (11, 0, "cpu", BulkOptions(workers=(1, 20)), (1, (1, 20))),
        (35, 4, "cuda", BulkOptions(), (8, (4, 4))),
        (5, 4, "cuda", BulkOptions(), (1, (2, 2))),
        (35, 4, "cpu", BulkOptions(), (1, (32, 32))),
    ],
)
def test_workers_leave_the_cpus_that_ray_needs(
    cpus: float, gpus: float, device: Any, options: BulkOptions, shares: tuple[int, tuple[int, int]]
) -> None:
    assert _shares({"CPU": cpus, "GPU": gpus}, device, options) == shares


def test_a_cluster_that_is_too_small_or_has_no_gpu_is_refused() -> None:
    with pytest.raises(UsageError, match=r"Ray has 4 CPUs, but a worker with 2 and .* need 5"):
        _shares({"CPU": 4.0}, "cpu", BulkOptions(threads=2))
    with pytest.raises(DeviceError, match="but Ray has no GPU"):
        _shares({"CPU": 8.0}, "cuda", BulkOptions())


def test_a_missing_precision_is_refused_before_ray_starts(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_job, "_cluster", lambda _: pytest.fail("Ray was started"))
    with pytest.raises(BundleError, match="has no int3 graphs; it has fp32"):
        caption(photo, output=tmp_path / "out", options=BulkOptions(precision="int3"))
    assert not (tmp_path / "out").exists()


@pytest.fixture
def two_precisions(bundle: Path, edit_manifest: Callable[..., None]) -> Path:
    """Returns a bundle that is fastest in int8 on the CPU and in fp32 on CUDA."""

    def measured(on_cpu: int) -> list[dict[str, Any]]:
        return [{"device": measured_on("cpu"), "photos_per_second": on_cpu, "cider": 1.0, "photos": 9}]

    def change(manifest: dict[str, Any]) -> None:
        full = manifest["precisions"]["fp32"]
        manifest["precisions"] = {"fp32": full | {"measured": measured(1)}, "int8": full | {"measured": measured(2)}}

    edit_manifest(bundle, change)
    return bundle


def test_a_job_resumes_only_in_the_precision_it_started_in(
    two_precisions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = []

    @contextlib.contextmanager
    def cluster(_: BulkOptions) -> Iterator[dict[str, float]]:
        yield {"CPU": 9.0, "GPU": 1.0}

    def one_row(work: Any, source: Any, folder: Any, *_: object) -> None:
        row = source.ids[folder.committed()]
        ran.append((work.options.device, work.options.precision))
        parquet.write_table(
            pa.table({"image": [row], **dict.fromkeys(("abstained", "error"), pa.nulls(1, pa.string()))}),
            folder.path / f"{row}.parquet",
        )
        parquet.write_table(pa.table({"image": [row]}), folder.done / f"{row}.parquet")

    monkeypatch.setattr(bulk_job, "_cluster", cluster)
    monkeypatch.setattr(bulk_job, "_run", one_row)

    def run(device: Any, precision: str | None = None, *, overwrite: bool = False) -> Summary:
        options = BulkOptions(device=device, precision=precision)
        output, model = tmp_path / "out", str(two_precisions)
        return caption("a.png", "b.png", "c.png", output=output, model=model, options=options, overwrite=overwrite)

    unfinished = pytest.raises(OutputError, match="not one for each of 3 photos")
    with unfinished:
        run("cpu")
    with pytest.raises(UsageError, match=r"another run: precision int8 \(now fp32\); give another --output"):
        run("cuda")
    with pytest.raises(UsageError, match=r"another run: precision int8 \(now fp32\); give another --output"):
        run("cpu", "fp32")
    with unfinished:
        run("cuda", "int8")
    assert run("cpu") == Summary(3, 2, 0)
    assert run("cuda", "int8") == Summary(3, 3, 0)
    with unfinished:
        run("cuda", overwrite=True)
    with unfinished:
        run("cpu", overwrite=True)
    assert ran == [("cpu", "int8"), ("cuda", "int8"), ("cpu", "int8"), ("cuda", "fp32"), ("cpu", "int8")]
