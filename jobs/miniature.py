"""`mudi miniature train | check | dataset`: make, judge and use the rendered world's tiny models."""

from pathlib import Path
from typing import Annotated

import typer

from jobs import entry
from mudi.model_facts import MINIATURE

application = typer.Typer(help="The rendered world and its tiny models.", no_args_is_help=True)


@application.command()
def train(
    work: Annotated[
        Path, typer.Option(help="Folder for scenes, latents and checkpoints, about 2 GB; training goes on from what is there.")
    ],
    weights: Annotated[Path, typer.Option(help="Where the finished weights go.")] = MINIATURE,
    seed: Annotated[int, typer.Option(help="Decides scenes, first weights and batches.")] = 0,
    processes: Annotated[int, typer.Option(help="Training processes of one thread each.")] = 2,
) -> None:
    """Train every part from one seed and store it; prints its losses."""
    from mudi.miniature.training.everything import train as train_all

    train_all(work.resolve(), weights.resolve(), seed, processes)


@application.command()
def check(weights: Annotated[Path, typer.Option(help="The folder to judge.")] = MINIATURE) -> None:
    """Measure the weights on held-out identities and compare with the gates; exit status 1 if one fails."""
    from mudi.miniature.gates.drawing import check_base
    from mudi.miniature.gates.judges import check as check_judges
    from mudi.miniature.gates.oracle import check_oracle
    from mudi.miniature.gates.texts import check_texts

    gates = [*check_base(weights), *check_judges(weights), *check_texts(weights), *check_oracle(weights)]
    for gate in gates:
        print(gate)
    if not all(gate.passed for gate in gates):
        raise typer.Exit(entry.FAILED)


@application.command()
def sheet(
    out: Annotated[Path, typer.Argument(help="The PNG file to write.")],
    weights: Annotated[Path, typer.Option(help="The folder to show.")] = MINIATURE,
) -> None:
    """Draw captions of held-out subjects beside their rendered scenes."""
    from mudi.miniature.sheet import contact_sheet
    from mudi.models import load

    contact_sheet(load(str(weights)), out)
    print(out)


@application.command()
def dataset(
    out: Annotated[Path, typer.Argument(help="The folder to write.")],
    subjects: Annotated[
        list[str], typer.Argument(help='Two or more, each "CLASS BODY BELLY [ACCESSORY COLOUR]": "dog pink blue scarf yellow".')
    ],
    seed: Annotated[int, typer.Option(help="Decides poses and backgrounds.")] = 0,
) -> None:
    """Render a combination folder: five pictures a subject, masks, captions."""
    from mudi.miniature.references import write_combination
    from mudi.miniature.world import parse_identity

    write_combination(out, [parse_identity(words) for words in subjects], seed)
    print(out)


if __name__ == "__main__":
    entry.execute(application)
