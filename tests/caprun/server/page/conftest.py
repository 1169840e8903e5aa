"""Fixtures for the page in a real Chromium: the browser, a service of the tiny model, visits and photos."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.caprun.photos.support.encoding import encode
from tests.caprun.server.support.serving import Serving, serving


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from tests.caprun.server.support.browser import chromium  # skips the tests without playwright

    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def service(browser: Any, tiny: Path) -> Iterator[Serving]:
    with serving(tiny, "--max-bytes", 1_000_000) as running:
        yield running


@pytest.fixture
def visiting(browser: Any, service: Serving) -> Iterator[Callable[..., Any]]:
    from tests.caprun.server.support.browser import visits

    with visits(browser, service.port) as opening:
        yield opening


@pytest.fixture
def visit(visiting: Callable[..., Any]) -> Any:
    return visiting()


@pytest.fixture(scope="session")
def photos(images: npt.NDArray[np.uint8]) -> list[bytes]:
    """Photos for which the tiny model has different captions."""
    return [encode(Image.fromarray(image).resize((90, 60)), "PNG") for image in images[:4]]
