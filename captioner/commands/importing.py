"""`captioner import`: converts a checkpoint of another captioner."""

from __future__ import annotations

from pathlib import Path

import click

from caprun.commands.click_types import Integer
from captioner.commands.console import own_command, say
from captioner.commands.options import FILE

_OPTIONS = {
    "sgrvinod": ("word_map",),
    "carnet": ("word_map", "decoder", "regions"),
    "image-cap": ("vocabulary",),
    "vvduc": ("vocabulary",),
    "ljm565": ("data",),
}
"""The options of each system, starting with the one for its vocabulary."""
_DECODERS = ("rnetvi", "rnetvh", "rnetvhc", "rnetvhcattention")


@click.command("import")
@click.argument("system", type=click.Choice(list(_OPTIONS)))
@click.argument("files", type=FILE, nargs=-1, required=True)
@click.option("--word-map", type=FILE, metavar="FILE", help="sgrvinod: WORDMAP_*.json; carnet: word2id.pickle.")
@click.option("--vocabulary", type=FILE, metavar="FILE", help="image-cap: BERT's vocab.txt; vvduc: vocab.json.")
@click.option("--data", type=FILE, metavar="DIR", help="ljm565: dataset that the model was trained on.")
@click.option("--decoder", type=click.Choice(_DECODERS), help="carnet: decoder of the model.")
@click.option("--regions", type=Integer(1, 256), metavar="N", show_default="7", help="carnet: number_of_splits.")
@click.option("--output", type=FILE, required=True, metavar="FILE.pt", help="Checkpoint to write.")
def import_(
    system: str,
    files: tuple[Path, ...],
    word_map: Path | None,
    vocabulary: Path | None,
    data: Path | None,
    decoder: str | None,
    regions: int | None,
    output: Path,
) -> None:
    """Make a checkpoint from FILES that another captioner wrote.

    With greedy search, the checkpoint generates the same captions as the other program. It can be exported, evaluated
    and fine-tuned (--init). No code in the files is executed.
    """
    from captioner.errors import CaptionerError
    from captioner.importers.assembly import import_checkpoint
    from captioner.importers.systems import SYSTEMS, Request
    from captioner.models.checkpoint import save_checkpoint
    from captioner.output_files import prepare_folder

    given = {"word_map": word_map, "vocabulary": vocabulary, "data": data, "decoder": decoder, "regions": regions}
    _check_options(system, [name for name, value in given.items() if value is not None])
    if output.exists():
        raise CaptionerError(f"{output} already exists; name another --output.")
    words = word_map or vocabulary or data
    assert words is not None, "the options were checked"
    request = Request(files, words, decoder or "", regions or 7)
    checkpoint = import_checkpoint(system, request, own_command())
    prepare_folder(output.parent)
    save_checkpoint(output, checkpoint)
    model = checkpoint.config.model
    say(f"{SYSTEMS[system].title}: {model.encoder}, {model.decoder} decoder, {len(checkpoint.vocabulary)} words")
    say(f"imported: {output}")


def _check_options(system: str, given: list[str]) -> None:
    """Raises a UsageError for an option that is missing or that the system does not have."""
    needed = [name for name in _OPTIONS[system] if name not in (*given, "regions")]
    others = [name for name in given if name not in _OPTIONS[system]]
    for names, problem in ((needed, "needs"), (others, "does not take")):
        if names:
            raise click.UsageError(f"captioner import {system} {problem} --{names[0].replace('_', '-')}.")
