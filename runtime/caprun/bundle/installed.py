"""Bundles that packages install: entry points of the group `caprun.bundles`.

An entry point `zh = caprun_zh` declares the folder of the package `caprun_zh` as the bundle `zh`.
"""

import importlib.util
from importlib.metadata import entry_points
from pathlib import Path
from typing import NamedTuple

from caprun.errors import BundleError

GROUP = "caprun.bundles"


class InstalledBundle(NamedTuple):
    """A bundle that a package declares, whether or not its folder exists."""

    name: str
    package: str
    """Name and version of the package that installed it."""
    module: str
    """Python package whose folder is the bundle."""

    def path(self) -> Path:
        """Returns the folder of the bundle.

        Raises:
            BundleError: The package is broken.
        """
        broken = f"The package {self.package}, which provides the bundle {self.name}, is broken"
        try:
            spec = importlib.util.find_spec(self.module)
        except Exception as error:
            raise BundleError(f"{broken} ({type(error).__name__}: {error}); install it again.") from error
        folders = list(spec.submodule_search_locations or ()) if spec else []
        if not folders:
            raise BundleError(f"{broken}: it has no folder {self.module}; install it again.")
        return Path(folders[0])


def installed_bundles() -> list[InstalledBundle]:
    """Finds the bundles that installed packages declare, sorted by name.

    Raises:
        BundleError: The entry points of a package cannot be read.
    """
    try:
        return sorted(
            InstalledBundle(
                one.name, f"{one.dist.name} {one.dist.version}" if one.dist else "of unknown name", one.value
            )
            for one in entry_points(group=GROUP)
        )
    except (TypeError, ValueError, OSError) as error:
        raise BundleError(f"The entry points of an installed package cannot be read ({error}).") from error


def installed_bundle(name: str) -> InstalledBundle | None:
    """Finds an installed bundle by name; None if there is none.

    Raises:
        BundleError: Several packages have a bundle of that name.
    """
    found = [one for one in installed_bundles() if one.name == name]
    if len(found) > 1:
        packages = " and ".join(one.package for one in found)
        raise BundleError(f"The packages {packages} each provide a bundle {name}; give a directory, or uninstall one.")
    return found[0] if found else None
