"""`caprun doctor`."""

import click


@click.command()
@click.option("--model", help="Bundle to examine, else the packaged one.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads to time with.  [default: all cores]")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
def doctor(model: str | None, threads: int | None, as_json: bool) -> None:
    """Say what is installed, whether it works, and what captioning a photo costs on this machine."""
    from caprun.commands.doctor_report import report

    report(model, threads, click.echo, as_json=as_json)
