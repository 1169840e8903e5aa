"""Photos and manifests with random bytes are read or raise `ImageError` or `BundleError`."""

import contextlib
import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("hypothesis", reason='hypothesis is not installed; pip install "captioner[checks]"')
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caprun.bundle.reading import read_bundle
from caprun.errors import BundleError, ImageError
from caprun.photos import decoding
from caprun.photos.preprocessing import load
from tests.caprun.bundle.test_manifest import TINY, places
from tests.caprun.photos.support.encoding import spec
from tests.caprun.photos.support.hostile import photos

pytestmark = pytest.mark.slow  # thousands of examples

# the same examples in every run, so that a failing test keeps failing; tests/fuzz searches further
BOUNDED = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SEEDS = [data for name, data in photos() if len(data) < 4_000 and not name.startswith(("cut", "flip"))]

SIGNATURES = [b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"RIFF    WEBP", b"GIF89a", b"BM", b"\0\0\0\x14ftypheic", b""]


@st.composite
def spoilt_photos(draw: st.DrawFn) -> bytes:
    """Draws a photo with bytes replaced, inserted, removed or repeated, or with bytes of another photo inserted."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 40))
        match draw(st.sampled_from(["replace", "insert", "remove", "repeat", "splice", "number"])):
            case "replace":
                data[at : at + length] = draw(st.binary(min_size=length, max_size=length))
            case "insert":
                data[at:at] = draw(st.binary(max_size=40))
            case "remove":
                del data[at : at + length]
            case "repeat":
                data[at:at] = data[at : at + length] * draw(st.integers(1, 50))
            case "splice":
                other = draw(st.sampled_from(SEEDS))
                start = draw(st.integers(0, len(other)))
                data[at:at] = other[start : start + draw(st.integers(0, 500))]
            case _:
                size = draw(st.sampled_from([1, 2, 4]))
                value = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0x7FFF, 0x8000, 2**31 - 1, 2**31, 2**32 - 1]))
                order = draw(st.sampled_from(["little", "big"]))
                data[at : at + size] = (value % 256**size).to_bytes(size, order)
    return bytes(data)


class TestPhotos:
    @pytest.fixture(autouse=True)
    def small(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Limits the pixels, since decoding large blank images would take most of the time."""
        monkeypatch.setattr(decoding, "MAX_PIXELS", 250_000)

    def check(self, data: bytes) -> None:
        try:
            array = load(data, spec())
        except ImageError as error:
            said = str(error)
        else:
            said = "; "
            assert array.shape == (32, 48, 3)
        assert "; " in said
        assert "\n" not in said

    @given(spoilt_photos())
    @settings(BOUNDED, max_examples=1_500)
    def test_a_damaged_photo_becomes_an_array_or_an_error(self, data: bytes) -> None:
        self.check(data)

    @given(st.sampled_from(SIGNATURES), st.binary())
    @settings(BOUNDED, max_examples=500)
    def test_random_bytes_after_a_signature_become_an_array_or_an_error(self, signature: bytes, data: bytes) -> None:
        self.check(signature + data)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**30, 10**40)
    | st.floats()
    | st.text()
    | st.sampled_from(["../model.json", "/etc/passwd", "C:\\x", "model.json", "vocab.json", "a\0b", "\ud800", "batch"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


class TestManifests:
    def check(self, bundle: Path, manifest: Any) -> None:
        """Checks that a manifest with a correct digest is read or refused."""
        if isinstance(manifest, dict):
            manifest.pop("digest", None)
            canonical = json.dumps(manifest, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
            manifest["digest"] = hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
        (bundle / "model.json").write_text(json.dumps(manifest), encoding="utf-8")
        with contextlib.suppress(BundleError):
            read_bundle(bundle)

    @given(data=st.data())
    @settings(BOUNDED, max_examples=800)
    def test_a_manifest_with_a_random_change_is_read_or_refused(self, bundle: Path, data: st.DataObject) -> None:
        manifest = copy.deepcopy(TINY)
        *above, last = data.draw(st.sampled_from([path for path in places(manifest) if path]))
        inner = manifest
        for key in above:
            inner = inner[key]
        if isinstance(inner, dict) and data.draw(st.booleans()):
            inner[data.draw(st.text())] = inner.pop(last)
        else:
            inner[last] = data.draw(VALUES)
        self.check(bundle, manifest)

    @given(content=st.binary() | VALUES.map(lambda value: json.dumps(value).encode()) | st.just(b"[" * 200_000))
    @settings(BOUNDED, max_examples=200)
    def test_a_manifest_of_random_bytes_is_refused(self, bundle: Path, content: bytes) -> None:
        (bundle / "model.json").write_bytes(content)
        with pytest.raises(BundleError):
            read_bundle(bundle)
