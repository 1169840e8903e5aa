"""A bulk job on Ray Data: reads photos, captions them in actors that each hold a model, and writes Parquet."""

import contextlib
import logging
import os
import socket
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

from caprun.bulk.output import Output, claimed
from caprun.bulk.source import BulkSource, find_source
from caprun.bulk.worker import BulkOptions, BulkWork, Worker
from caprun.bundle.manifest import refuse_uncalibrated
from caprun.bundle.reading import read_bundle
from caprun.caption import ROW_FORMAT
from caprun.commands.search_options import with_search_options
from caprun.engine import find_bundle
from caprun.errors import CaprunError, DeviceError, UsageError
from caprun.inference.devices import choose_device
from caprun.inference.precisions import choose_precision
from caprun.photos.extensions import describe_left_out

_SPARE_CPUS = 3  # for Ray Data's own actor and tasks, which read, filter, split and write next to the workers


class Summary(NamedTuple):
    """The counts of a finished job."""

    photos: int
    before: int
    """Photos captioned by an earlier run of the same job."""
    failed: int
    """Rows with an error."""
    abstained: int = 0
    """Rows for which the model abstained."""


def caption_in_bulk(arguments: Sequence[str], output: Path, standard_input: BinaryIO, options: BulkOptions) -> Summary:
    """Captions photos on a Ray cluster, or resumes a stopped job. In the end, every photo has one row.

    Raises:
        UsageError: There is nothing to caption, Ray is not installed, or the output belongs to another job.
        BundleError: The bundle does not exist or does not have the precision, or a worker refuses it.
        DeviceError: A worker's device failed, or the cluster has no GPU.
        OutputError: The output cannot be written, or does not have one row for each photo.
        CaprunError: Ray failed; completed rows are kept.
    """
    _import_ray()
    model = options.model
    if model is not None and os.path.lexists(model):
        model = os.path.abspath(model)  # noqa: PTH100
    bundle = read_bundle(find_bundle(model))
    refuse_uncalibrated(bundle.manifest, options.min_confidence)
    device = choose_device("auto") if options.device == "auto" else options.device
    precision = options.precision or choose_precision(bundle.manifest, device)
    bundle.graphs(precision)  # refuses a bundle that was altered
    search = with_search_options(bundle.manifest, bundle.vocabulary, options.search)
    left_out: Counter[str] = Counter()
    source = find_source(arguments, standard_input, options, left_out)
    for line in describe_left_out(left_out):
        print(line, file=sys.stderr)
    total = len(source.ids)
    identity = {
        "rows": ROW_FORMAT,
        "model": f"{bundle.manifest.name} {bundle.digest[:12]}",
        "precision": precision,
        **asdict(search),
        "min confidence": "none" if options.min_confidence is None else options.min_confidence,
        "photos": f"{total:,} {source.digest[:12]}",
        "id": source.id_column,
        "image": source.image_column,
    }
    with claimed(Path(os.path.abspath(output)), identity, total, overwrite=options.overwrite) as folder:  # noqa: PTH100
        before = folder.committed()
        if before < total:
            with _cluster(options) as resources:
                threads, pool = _shares(resources, device, options)
                work = BulkWork(
                    replace(options, model=model, device=device, precision=precision, threads=threads),
                    search,
                    bundle.digest,
                    source.id_column,
                    source.image_column,
                    by_path=bool(source.paths),
                    folder=os.getcwd(),  # noqa: PTH109
                    attempts=folder.attempts,
                )
                _run(work, source, folder, pool)
        return Summary(total, before, *folder.verify(source.ids, source.id_column))


def _import_ray() -> Any:
    try:
        import ray.data
    except ImportError as error:
        raise UsageError(
            f'Ray Data is not installed or cannot be imported ({error}): pip install "captioner[ray]".'
        ) from error
    return ray


@contextlib.contextmanager
def _cluster(options: BulkOptions) -> Iterator[Mapping[str, float]]:
    """Connects to a cluster, or starts one here; yields its resources."""
    ray = _import_ray()
    from caprun.inference.hardware import threads_for_all_cores

    connected = ray.is_initialized()
    if not connected:
        settings: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        if options.address is None:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing leaves the machine
            wanted = (options.workers or (1, 1))[1] * (options.threads or 1)
            cpus = max(wanted, threads_for_all_cores()) + _SPARE_CPUS
            settings |= {"address": "local", "num_cpus": cpus, "include_dashboard": False}
        else:
            settings["address"] = options.address
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        try:
            _knock(options.address or "")
            with _closed_stderr():
                ray.init(**settings)
        except (RuntimeError, ValueError, OverflowError, OSError) as error:
            at = "" if options.address is None else f" at {options.address}"
            raise CaprunError(f"Ray does not start{at}: {_brief(error)}.") from error
    try:
        yield ray.cluster_resources()
    finally:
        if not connected:
            ray.shutdown()


def _knock(address: str) -> None:
    """Fails at once if nothing listens at a HOST:PORT, where Ray would retry for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in address:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=10):
            pass


def _shares(
    resources: Mapping[str, float], device: Literal["cpu", "cuda"], options: BulkOptions
) -> tuple[int, tuple[int, int]]:
    """Divides a cluster; returns the threads per worker, and the minimum and maximum number of workers."""
    cpus, gpus = int(resources.get("CPU", 0)) - _SPARE_CPUS, int(resources.get("GPU", 0))
    if device == "cuda" and not gpus:
        raise DeviceError("The job runs on CUDA, but Ray has no GPU; use --device cpu.")
    threads = options.threads or (max(1, cpus // gpus) if device == "cuda" else 1)
    if cpus < threads:
        raise UsageError(
            f"Ray has {cpus + _SPARE_CPUS} CPUs, but a worker with {threads} and the tasks that read and write for it "
            f"need {threads + _SPARE_CPUS}; start Ray with this --num-cpus, even on a machine with fewer."
        )
    most = min(gpus, cpus // threads) if device == "cuda" else cpus // threads
    return threads, options.workers or (most, most)


def _run(work: BulkWork, source: BulkSource, folder: Output, pool: tuple[int, int]) -> None:
    import pyarrow.fs
    import ray
    from ray.data import ActorPoolStrategy, DataContext
    from ray.data.checkpoint import CheckpointConfig

    rows_per_file = work.options.rows_per_file
    files = pyarrow.fs.LocalFileSystem()
    # the committed ids are kept, since they show that the job is done
    checkpoint = CheckpointConfig(
        source.id_column, str(folder.done), delete_checkpoint_on_success=False, override_filesystem=files
    )
    checkpoint.checkpoint_actor_pool_max_size = 1  # more would take the CPUs of the tasks that wait for its rows
    photos = source.in_parquet(folder.state)
    little: dict[str, Any] = {"num_cpus": 0.25}
    try:
        with _quiet():
            context = DataContext.get_current().copy()
            context.print_on_execution_start = False
            context.enable_progress_bars = sys.stderr.isatty()
            context.raise_original_map_exception = True  # a worker's own error, not the text of its traceback
            context.checkpoint_config = checkpoint
            with DataContext.current(context):
                rows = ray.data.read_parquet(
                    photos, filesystem=files, partitioning=None, file_extensions=None, **little
                )
                rows = rows.select_columns(list(dict.fromkeys((source.id_column, source.image_column))))
                rows.repartition(target_num_rows_per_block=rows_per_file).map_batches(
                    Worker,
                    fn_constructor_args=(work,),
                    batch_size=rows_per_file,
                    batch_format="pyarrow",
                    compute=ActorPoolStrategy(min_size=pool[0], max_size=pool[1]),
                    num_cpus=work.options.threads,
                    num_gpus=1 if work.options.device == "cuda" else None,
                    udf_modifying_row_count=False,
                ).write_parquet(str(folder.path), filesystem=files, ray_remote_args=little)
    except Exception as error:
        raise _sentence(error) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Ray Data from printing; its log file still has everything."""
    handlers = [h for h in logging.getLogger("ray.data").handlers if isinstance(h, logging.StreamHandler)]
    levels = [handler.level for handler in handlers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for handler in handlers:
            handler.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for handler, level in zip(handlers, levels, strict=True):
                handler.setLevel(level)


@contextlib.contextmanager
def _closed_stderr() -> Iterator[None]:
    """Keeps libraries from printing, even from C++."""
    sys.stderr.flush()
    stderr = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)


def _sentence(error: BaseException) -> CaprunError:
    """Converts an error of a job: returns a worker's own error, or else the first line of Ray's or a library's."""
    while isinstance(cause := getattr(error, "cause", None), BaseException):
        error = cause
    if isinstance(error, CaprunError):
        return type(error)(_brief(error) + ".")
    return CaprunError(f"Ray failed: {_brief(error)}. Completed rows are kept, and the same command resumes.")


def _brief(error: BaseException) -> str:
    # below the first line, Ray adds advice for developers
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__).rstrip(".")
