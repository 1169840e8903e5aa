"""A bulk job on Ray Data: read, caption in a pool of actors that hold a model each, write Parquet."""

import contextlib
import logging
import os
import socket
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from caprun.bulk.output import Output, claimed
from caprun.bulk.source import BulkSource, find_source
from caprun.bundle.manifest import refuse_uncalibrated
from caprun.errors import CaprunError, DeviceError, UsageError
from caprun.inference.devices import Device
from caprun.inference.precisions import choose_precision

_SPARE_CPUS = 3  # for Ray Data's own actor and tasks, which read, filter, cut and write while the workers keep theirs
_FORMAT = 3  # of the rows: 1 had no confidence, 2 no `finished`


@dataclass(frozen=True)
class BulkOptions:
    """How a job is done.

    Besides `precision`, which `device` decides where it is None, none of it changes a caption; `device` changes the
    last digits of its log-probability.
    """

    device: Device = "auto"
    """`auto` is CUDA where the cluster has GPUs and ONNX Runtime has CUDA."""
    precision: str | None = None
    """One of the bundle's, for a job from first to last; None for the fastest that was measured on such hardware."""
    threads: int | None = None
    """CPUs of a worker; None for one, or on CUDA for an equal share."""
    workers: tuple[int, int] | None = None
    """Fewest and most; None for one a core, or on CUDA one a GPU."""
    batch_size: int | None = None
    """Photos computed together; None for what suits the device."""
    rows_per_file: int = 500
    """Of the output: what is committed together, and done again where a worker dies."""
    address: str | None = None
    """A Ray cluster's; None starts one on this machine, for this job."""


class Summary(NamedTuple):
    """What became of a job."""

    photos: int
    before: int
    """Of these, captioned by an earlier run of the same job."""
    failed: int
    """Of these, rows with an error."""
    abstained: int = 0
    """And rows of photos from which the model abstained."""


def caption_in_bulk(
    arguments: Sequence[str],
    output: Path,
    *,
    standard_input: BinaryIO,
    model: str | None = None,
    min_confidence: float | None = None,
    search: Mapping[str, Any] | None = None,
    recursive: bool = False,
    image_column: str = "image",
    id_column: str = "id",
    overwrite: bool = False,
    options: BulkOptions | None = None,
) -> Summary:
    """Caption photos on a Ray cluster, or go on with it; every photo has one row in the end.

    Args:
        arguments: photos, folders, `-`, or Parquet files and folders of them.
        output: a folder for Parquet files with a photo's id, `caption`, `log_prob` (natural logarithm),
            `confidence`, `words`, `alternatives`, `abstained` and `error`; in no order.
        standard_input: read for `-`.
        model: a bundle; None for the packaged one.
        min_confidence: a photo of whose caption the model is less sure has none, and its row says so; None for all.
        search: options of the search that are not the model's own.
        recursive: look into folders of folders too.
        image_column, id_column: of Parquet files.
        overwrite: give up what another or a finished job has written to `output`.
        options: how it is done.

    Raises:
        UsageError: there is nothing to caption, or no Ray, or the output is of another job, or of another precision
            than is the fastest here.
        BundleError: there is no such bundle, or it has not that precision, or a worker refuses it.
        DeviceError: of a worker, or the cluster has no GPU.
        OutputError: the output cannot be written, or is not what it should be.
        CaprunError: Ray gave up; what is done stays.
    """
    options = options or BulkOptions()
    _import_ray()
    from caprun.bulk.worker import BulkWork, digest_of
    from caprun.bundle.reading import read_bundle
    from caprun.commands.search_options import with_search_options
    from caprun.engine import packaged_bundle

    bundle = read_bundle(packaged_bundle() if model is None else os.path.abspath(model))  # noqa: PTH100
    refuse_uncalibrated(bundle.manifest, min_confidence)
    if options.precision is not None:
        bundle.check(options.precision)
    search_options = with_search_options(bundle.manifest, search or {})
    source = find_source(arguments, standard_input, recursive=recursive, image_column=image_column, id_column=id_column)
    total = len(source.ids)
    identity = {
        "rows": _FORMAT,
        "model": f"{bundle.manifest.name} {digest_of(bundle.path)[:12]}",
        **({} if options.precision is None else {"precision": options.precision}),
        **asdict(search_options),
        "min confidence": "none" if min_confidence is None else min_confidence,
        "photos": f"{total:,} {source.digest[:12]}",
        "id": source.id_column,
        "image": source.image_column,
    }
    with claimed(Path(os.path.abspath(output)), identity, total, overwrite=overwrite) as folder:  # noqa: PTH100
        before = folder.committed()
        if before < total:
            with _cluster(options) as (device, threads, pool):
                precision = options.precision or choose_precision(bundle.manifest, device)
                folder.resume_or_begin({**identity, "precision": precision}, total, overwrite=overwrite)
                before = folder.committed()
                work = BulkWork(
                    bundle=None if model is None else str(bundle.path),
                    model=digest_of(bundle.path),
                    device=device,
                    precision=precision,
                    threads=threads,
                    options=search_options,
                    min_confidence=min_confidence,
                    batch_size=options.batch_size,
                    id_column=source.id_column,
                    image_column=source.image_column,
                    by_path=bool(source.paths),
                    folder=os.getcwd(),  # noqa: PTH109
                    attempts=folder.attempts,
                )
                _run(work, source, folder, pool, options.rows_per_file)
        return Summary(total, before, *folder.verify(source.ids, source.id_column))


def _import_ray() -> Any:
    try:
        import ray.data
    except ImportError as error:
        raise UsageError(
            f'Ray Data is not installed or does not load ({error}): pip install "captioner[ray]".'
        ) from error
    return ray


@contextlib.contextmanager
def _cluster(options: BulkOptions) -> Iterator[tuple[Any, int, tuple[int, int]]]:
    """Connect to a cluster, or start one here; yields device, threads of a worker, and fewest and most workers."""
    ray = _import_ray()
    from caprun.inference.hardware import threads_for_all_cores

    connected = ray.is_initialized()
    if not connected:
        quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        try:
            if options.address is not None:
                _knock(options.address)
                with _closed_stderr():
                    ray.init(address=options.address, **quiet)
            else:
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a command of ours reports to nobody
                wanted = (options.workers or (1, 1))[1] * (options.threads or 1)
                cpus = max(wanted, threads_for_all_cores()) + _SPARE_CPUS
                with _closed_stderr():
                    ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
        except (RuntimeError, ValueError, OverflowError, OSError) as error:
            raise CaprunError(f"Ray does not start{_at(options.address)}: {_brief(error)}.") from error
    try:
        yield _shares(ray.cluster_resources(), options)
    finally:
        if not connected:
            ray.shutdown()


def _at(address: str | None) -> str:
    return "" if address is None else f" at {address}"


def _knock(address: str) -> None:
    """Fail at once where nobody listens: Ray would ask again for longer than anybody waits."""
    host, _, port = address.rpartition(":")
    if host and port.isdecimal() and "://" not in address:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=10):
            pass


def _shares(resources: Mapping[str, float], options: BulkOptions) -> tuple[Any, int, tuple[int, int]]:
    from caprun.inference.devices import choose_device

    cpus, gpus = int(resources.get("CPU", 0)) - _SPARE_CPUS, int(resources.get("GPU", 0))
    device = options.device
    if device == "auto":
        device = choose_device("auto") if gpus else "cpu"
    if device == "cuda" and not gpus:
        raise DeviceError("CUDA was asked for and Ray knows of no GPU; use --device cpu.")
    threads = options.threads or (max(1, cpus // gpus) if device == "cuda" else 1)
    if cpus < threads:
        raise UsageError(
            f"Ray has {cpus + _SPARE_CPUS} CPUs, and a worker of {threads} with what reads and writes for it takes "
            f"{threads + _SPARE_CPUS}; start Ray with a --num-cpus of that, even if they are not all there."
        )
    most = min(gpus, cpus // threads) if device == "cuda" else cpus // threads
    return device, threads, options.workers or (most, most)


def _run(work: Any, source: BulkSource, folder: Output, pool: tuple[int, int], rows_per_file: int) -> None:
    import pyarrow.fs
    import ray
    from ray.data import ActorPoolStrategy, DataContext
    from ray.data.checkpoint import CheckpointConfig

    from caprun.bulk.worker import Worker

    files = pyarrow.fs.LocalFileSystem()
    # committed ids are kept when the job is done: they say so
    checkpoint = CheckpointConfig(
        source.id_column, str(folder.done), delete_checkpoint_on_success=False, override_filesystem=files
    )
    checkpoint.checkpoint_actor_pool_max_size = 1  # more would take the CPUs of those who wait for its rows
    photos = source.in_parquet(folder.state)
    little: dict[str, Any] = {"num_cpus": 0.25}
    try:
        with _quiet():
            context = DataContext.get_current().copy()
            context.print_on_execution_start = False
            context.enable_progress_bars = sys.stderr.isatty()
            context.raise_original_map_exception = True  # a worker's own refusal, not the text of its traceback
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
                    num_cpus=work.threads,
                    num_gpus=1 if work.device == "cuda" else None,
                    udf_modifying_row_count=False,
                ).write_parquet(str(folder.path), filesystem=files, ray_remote_args=little)
    except Exception as error:
        raise _sentence(error) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Ray Data tells its log file what it does, and the terminal nothing."""
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
    """Nothing reaches the terminal, not even what a library prints from C++: that it was told to be quiet."""
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
    """What a worker refused, as it said it; or else what Ray or a library says first."""
    while isinstance(cause := getattr(error, "cause", None), BaseException):
        error = cause
    if isinstance(error, CaprunError):
        return type(error)(_brief(error) + ".")
    return CaprunError(f"Ray gave up: {_brief(error)}. What is done stays, and the same command goes on.")


def _brief(error: BaseException) -> str:
    # the first line: Ray adds advice for its programmers below what was said
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__).rstrip(".")
