"""`caprun models`: lists the installed bundles."""

from collections.abc import Iterable, Mapping
from typing import Any

import click


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each bundle.")
def models(*, as_json: bool) -> None:
    """List the installed bundles by the names that --model accepts, with language, scores and licence.

    An asterisk marks the bundle that is used without --model. A bundle in a broken package is reported as an error; the
    others are still listed.
    """
    import json

    from caprun.bundle.installed import installed_bundles
    from caprun.errors import BundleError

    rows, errors = [], []
    for bundle in installed_bundles():
        try:
            rows.append({"name": bundle.name, **_described(bundle.path()), "package": bundle.package})
        except BundleError as error:
            errors.append(f"{bundle.name} ({bundle.package}): {error}")
    for line in map(json.dumps, rows) if as_json else _table(rows):
        click.echo(line)
    if not rows and not errors:
        click.echo("No bundle is installed.", err=True)
    for line in errors:
        click.echo(f"Error: {line}", err=True)
    if errors:
        raise click.exceptions.Exit(1)


def _described(path: Any) -> dict[str, Any]:
    """Describes a bundle as plain data.

    Raises:
        BundleError: It cannot be read.
    """
    from caprun.bundle.reading import read_bundle
    from caprun.engine import packaged_bundle
    from caprun.errors import BundleError

    manifest = read_bundle(path).manifest
    scores = ("cider", "bleu_4", "split", "photos", "segmentation")
    try:
        default = packaged_bundle().resolve() == path.resolve()
    except BundleError:
        default = False
    return {
        "default": default,
        "language": manifest.language,
        "scores": {name: manifest.metrics[name] for name in scores if name in manifest.metrics},
        "licence": manifest.licence,
        "path": str(path),
    }


def _table(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    cells = [
        (f"{row['name']}{' *' * row['default']}", row["language"] or "-", _scores(row["scores"]), row["licence"])
        for row in rows
    ]
    table = [("name", "language", "scores", "licence"), *cells] if cells else []
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def _scores(scores: Mapping[str, Any]) -> str:
    titles = {"cider": "CIDEr", "bleu_4": "BLEU-4"}
    numbers = [f"{title} {100 * scores[key]:.1f}" for key, title in titles.items() if type(scores.get(key)) is float]
    if not numbers:
        return "-"
    where = f"{scores.get('photos', '?')} {scores.get('split', '')} photos"
    return f"{', '.join(numbers)} by {scores.get('segmentation', 'words')}, {where}"
