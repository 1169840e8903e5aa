"""Training accepts the same photo files as the runtime."""

from __future__ import annotations

import pytest

from caprun.photos.extensions import EXTENSIONS
from captioner.datasets.files import is_photo_name
from tests.captioner.datasets.folders import found, write


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_training_reads_every_photo_extension_of_the_runtime(tmp_path, extension):
    write(tmp_path, {"a.txt": "A dog .", "b.txt": "A cat ."}, f"a{extension}", f"b{extension.upper()}")
    assert [name for name, _, _ in found(tmp_path)] == [f"a{extension}", f"b{extension.upper()}"]


@pytest.mark.parametrize("name", ["a.txt", "a.jpg.txt", "jpg", ".jpg", "a.tiff", ""])
def test_other_files_are_not_photos(name):
    assert not is_photo_name(name)
