"""`mudi VERB ...` is `python -m jobs.VERB ...`: the verbs in one program."""

import typer

from jobs import entry
from jobs.benchmark import benchmark
from jobs.check import check
from jobs.compare import compare
from jobs.miniature import application as miniature
from jobs.plan import plan
from jobs.prepare import prepare
from jobs.report import write
from jobs.selftrain import selftrain


def main() -> None:
    """The `mudi` program."""
    application = typer.Typer(add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True)
    application.command()(prepare)
    application.command()(selftrain)
    application.command()(check)
    application.command()(benchmark)
    application.command()(plan)
    application.command("report")(write)
    application.command()(compare)
    application.add_typer(miniature, name="miniature")
    entry.execute(application)
