"""/metrics: what one process counts, and the sums over several processes."""

import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from caprun import Captioner
from caprun.server.metrics import Metrics
from tests.caprun.server.support.service import JSON, PHOTO, listed, running


def values(text: str) -> dict[str, float]:
    """Returns the samples by name and labels."""
    return {
        " ".join([sample.name, *(f"{k}={v}" for k, v in sorted(sample.labels.items()))]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_requests_photos_stages_and_batches_are_counted(captioner: Captioner) -> None:
    with running(captioner) as service:
        for _ in range(3):
            service.caption(PHOTO)
        service.client.post("/v1/caption", content=listed(PHOTO, b"no photo"), headers=JSON)
        service.caption(b"no photo")
        service.caption(PHOTO, beam_size=0)
        service.client.get("/made/up/by/a/client")
        answer = service.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = values(answer.text)
    assert found["caprun_requests_total code=200 path=/v1/caption"] == 4
    assert found["caprun_requests_total code=415 path=/v1/caption"] == 1
    assert found["caprun_requests_total code=422 path=/v1/caption"] == 1
    assert found["caprun_requests_total code=404 path=other"] == 1
    assert found["caprun_photos_total result=captioned"] == 4
    assert found["caprun_photos_total result=bad"] == 2
    assert found["caprun_batch_size_sum"] == 4
    assert found["caprun_queue_length"] == 0
    for stage, count in (("receive", 4), ("decode", 4), ("queue", 4), ("caption", 4), ("total", 4)):
        assert found[f"caprun_stage_seconds_count stage={stage}"] == count
    total = found["caprun_stage_seconds_sum stage=total"]
    assert 0 < found["caprun_stage_seconds_sum stage=caption"] < total
    assert "made" not in answer.text


def test_services_in_one_process_count_separately() -> None:
    first, second = Metrics(), Metrics()
    first.batch_size.observe(5)
    assert values(first.text().decode())["caprun_batch_size_sum"] == 5
    assert values(second.text().decode())["caprun_batch_size_sum"] == 0


PROCESS = """
import sys, os
from caprun.server.metrics import Metrics
metrics = Metrics()
metrics.requests.labels("/v1/caption", 200).inc()
metrics.stages.labels("caption").observe(0.3)
metrics.queue.set(int(sys.argv[1]))
print(os.getpid(), flush=True)
sys.stdin.read()
"""
LOOKING = """
import sys
from caprun.server.metrics import Metrics, forget
for pid in sys.argv[1:]:
    forget(int(pid))
print(Metrics().text().decode())
"""


def test_processes_are_summed_and_the_queue_of_a_dead_one_is_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", str(tmp_path))

    def look(*dead: str) -> dict[str, float]:
        command = [sys.executable, "-c", LOOKING, *dead]
        return values(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    processes = [
        subprocess.Popen([sys.executable, "-c", PROCESS, queue], text=True, stdin=-1, stdout=-1) for queue in "34"
    ]
    try:
        pids = []
        for process in processes:
            assert process.stdout
            pids.append(process.stdout.readline().strip())
        found = look()
        assert found["caprun_requests_total code=200 path=/v1/caption"] == 2
        assert found["caprun_stage_seconds_count stage=caption"] == 2
        assert found["caprun_stage_seconds_sum stage=caption"] == pytest.approx(0.6)
        assert found["caprun_queue_length"] == 7
    finally:
        for process in processes:
            process.communicate("")
    found = look(pids[0])
    assert found["caprun_queue_length"] == 4
    assert found["caprun_requests_total code=200 path=/v1/caption"] == 2, "what it has answered it has answered"
