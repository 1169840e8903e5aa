"""Fuzzes the reading of manifests, guided by coverage.

    python tests/fuzz/manifest.py [CORPUS] [-max_total_time=60]

It needs atheris, which the extra `fuzz` installs. The seed is the manifest of `tests/tiny`. Every JSON input gets a
correct digest, as an attacker would add it.
"""

import contextlib
import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["caprun", "json"]):
    from caprun.bundle.reading import read_bundle
    from caprun.errors import BundleError

TINY = Path(__file__).parents[1] / "tiny" / "bundle"


def main() -> None:
    seeds = Path(tempfile.mkdtemp(prefix="caprun-fuzz-"))
    manifest = (TINY / "model.json").read_bytes()
    (seeds / "manifest").write_bytes(manifest)
    # more seeds: the manifest with one field of a wrong type
    for name, value in json.loads(manifest).items():
        (seeds / name).write_text(json.dumps({**json.loads(manifest), name: [value]}))
    words = seeds.with_suffix(".dict")
    words.write_text("".join(f'"{word}"\n' for word in sorted(_words(json.loads(manifest)))))
    bundle = Path(shutil.copytree(TINY, seeds.with_suffix(".bundle")))
    options = ["-timeout=120", "-rss_limit_mb=2000", "-max_len=60000", f"-dict={words}"]
    atheris.Setup([sys.argv[0], *options, *sys.argv[1:], str(seeds)], lambda data: check(data, bundle))
    atheris.Fuzz()


def check(data: bytes, bundle: Path) -> None:
    """Requires that a manifest is read or raises BundleError."""
    (bundle / "model.json").write_bytes(with_digest(data))
    with contextlib.suppress(BundleError):
        read_bundle(bundle)


def with_digest(data: bytes) -> bytes:
    """Corrects the digest of a manifest; returns other data unchanged."""
    try:
        manifest = json.loads(data)
        manifest.pop("digest", None)
        canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        manifest["digest"] = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
        return json.dumps(manifest).encode("utf-8", "surrogatepass")
    except Exception:  # noqa: BLE001  (not JSON, or not an object)
        return data


def _words(value: object) -> set[str]:
    """Collects keys and strings for the dictionary of the fuzzer."""
    if isinstance(value, dict):
        return {word for key, item in value.items() for word in (str(key), *_words(item))}
    if isinstance(value, list):
        return {word for item in value for word in _words(item)}
    return {value} if isinstance(value, str) and value.isascii() and value.isprintable() and '"' not in value else set()


if __name__ == "__main__":
    main()
