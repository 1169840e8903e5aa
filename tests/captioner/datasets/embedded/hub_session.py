"""Reads datasets from a local hub server in a separate process, and prints the results as JSON.

The process is separate because Hugging Face libraries read the hub's address on import. The argument is a folder.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import tarfile
import threading
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.captioner.datasets.embedded.photos import png

OLD, NEW = "0" * 40, "1" * 40


class Hub(ThreadingHTTPServer):
    """Serves the part of the hub's API that reading a dataset needs; the folder `ROOT/OWNER/NAME` is a repository."""

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.main, self.requests = root, OLD, list[str]()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Hub

    def do_GET(self) -> None:
        self.server.requests.append(self.path)
        path = self.path.partition("?")[0].removeprefix("/api")
        match = re.fullmatch(r"/datasets/(\w+/\w+)(?:/(resolve|tree|revision)/(\w+)(?:/(.*))?)?", path)
        repository, kind, revision, inside = match.groups() if match else ("", "", None, None)
        folder = self.server.root / repository
        file = folder / (inside or "")
        commit = {None: self.server.main, "main": self.server.main}.get(revision, revision)
        if "gated" in repository:
            self.answer(401, b"{}", error="GatedRepo")
        elif not match or not folder.is_dir():
            self.answer(404, b"{}", error="RepoNotFound")
        elif commit not in (OLD, NEW):
            self.answer(404, b"{}", error="RevisionNotFound")
        elif kind == "resolve":
            self.send(file, commit) if file.is_file() else self.answer(404, b"{}", error="EntryNotFound")
        elif kind == "tree":
            inner = sorted(file.rglob("*") if "recursive=true" in self.path.lower() else file.glob("*"))
            self.answer(200, json.dumps([_entry(folder, one) for one in inner]).encode())
        else:
            self.answer(200, json.dumps({"id": repository, "sha": commit, "siblings": [], "tags": []}).encode())

    do_HEAD = do_GET  # noqa: N815

    def send(self, file: Path, commit: str) -> None:
        data, code, headers = file.read_bytes(), 200, {"ETag": f'"{file.name}"', "X-Repo-Commit": commit}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(match[1]), min(int(match[2] or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            data, code = data[first : last + 1], 206
        self.answer(code, data, **headers)

    def answer(self, code: int, body: bytes, *, error: str = "", **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), "X-Error-Code": error, **headers}.items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def _entry(folder: Path, path: Path) -> dict[str, Any]:
    kind = "file" if path.is_file() else "directory"
    return {"type": kind, "oid": OLD, "size": path.stat().st_size, "path": path.relative_to(folder).as_posix()}


def _write_repositories(root: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def table(name: str, **columns: Any) -> None:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns), root / name, row_group_size=2)

    def photos(*numbers: int) -> list[dict[str, Any]]:
        return [{"bytes": png(number), "path": f"{number}.png"} for number in numbers]

    for split, numbers in (("train", range(6)), ("validation", range(6, 8))):
        captions = [[f"A dog {number} .", "It runs ."] for number in numbers]
        table(f"own/shapes/data/{split}-00000-of-00001.parquet", image=photos(*numbers), caption=captions)
    table("own/held_out/data/test.parquet", image=photos(1, 2), caption=["A dog .", "A cat ."])
    for split, number in (("karpathy_train", 1), ("karpathy_test", 2)):
        table(f"own/karpathy/data/{split}-00000-of-00001.parquet", image=photos(number), caption=["A dog ."])
    table("own/script/data/train.parquet", image=photos(1), caption=["A dog ."])
    (root / "own/script/script.py").touch()
    table("own/labels/data/train.parquet", image=photos(1), label=[3])
    table("own/urls/data/train.parquet", image=["http://a/1.png"], caption=["A dog ."])
    (root / "own.png").write_bytes(png(1))
    table(
        "own/elsewhere/train.parquet", image=[{"bytes": None, "path": (root / "own.png").as_uri()}], caption=["A dog ."]
    )
    for config in ("en", "de"):
        table(f"own/configs/{config}.parquet", image=photos(1, 2), caption=[config, config])
    entries = "\n".join(f"- config_name: {config}\n  data_files: {config}.parquet" for config in ("en", "de"))
    (root / "own/configs/README.md").write_text(f"---\nconfigs:\n{entries}\n---\n")
    (root / "own/folder/train").mkdir(parents=True)
    for number in (1, 2):
        (root / f"own/folder/train/{number}.png").write_bytes(png(number))
    lines = [json.dumps({"file_name": f"{number}.png", "text": f"A dog {number} ."}) for number in (1, 2)]
    (root / "own/folder/train/metadata.jsonl").write_text("\n".join(lines))
    (root / "own/archive").mkdir()
    with tarfile.open(root / "own/archive/train.tar", "w") as archive:
        for name, content in (
            ("1.png", png(1)),
            ("1.txt", b"A dog .\nIt runs ."),
            ("2.png", png(2)),
            ("2.txt", b"A cat ."),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _main(folder: Path) -> None:
    _write_repositories(folder / "hub")
    hub = Hub(folder / "hub")
    os.environ |= {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(folder / "home"),
        "XDG_CACHE_HOME": str(folder / "cache"),
    }
    from caprun.errors import CaprunError
    from captioner.datasets import load_dataset
    from captioner.datasets.embedded import image_folder

    found: dict[str, Any] = {}

    def read(name: str, key: str = "") -> None:
        before = len(hub.requests)
        try:
            dataset = load_dataset(Path(name))
        except CaprunError as error:
            found[key or name] = str(error)
        else:
            examples = [(e.image.read_bytes().hex(), e.references, e.split) for e in dataset.examples]
            found[key or name] = {
                "examples": examples,
                "said": dataset.summary()[0],
                "asked": len(hub.requests) - before,
            }

    names = (
        "shapes karpathy held_out held_out:test shapes:none shapes@v9 none gated script labels urls elsewhere configs"
    )
    for name in [*names.split(), "configs:de/train", "folder", "archive"]:
        read(f"hf:own/{name}")
    read("hf:own/shapes", "again")

    described = image_folder._described
    rows: list[int] = []

    def counted(folder: Path, row: image_folder.Row, limit: int = 100) -> dict[str, Any]:
        if len(rows) == limit:
            raise KeyboardInterrupt
        rows.append(1)
        return described(folder, row)

    image_folder._SAVED_EVERY, image_folder._described = 3, partial(counted, limit=5)
    with suppress(KeyboardInterrupt):
        read("hf:own/shapes@main")
    rows.clear()
    hub.main, image_folder._described = NEW, counted  # the branch moves to a new commit
    read("hf:own/shapes@main", "resumed")
    found["rows read by the second command"] = len(rows)
    print(json.dumps(found))


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
