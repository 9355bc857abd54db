"""How every verb starts and ends: overrides, one-line errors, exit statuses."""

import os
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import typer

from pipeline.workers.failure import RunFailedError

DONE, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

# Ray reads these when it is imported. Token authentication is not the default of `ray start`, and the
# job command line refuses to use a token that exists unless told so: say it explicitly.
# The rest keeps Ray's own logs out of the user's terminal; they stay in its log folder.
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Workers of a Ray that is started here are as urgent as the driver. Ray's default of 15 puts them behind its own processes:
    # on two cores the same chunks then take 1.23 times as long as in this process, and 0.99 times with 0.
    "RAY_worker_niceness": "0",
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}


def prepare_environment() -> None:
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def require_file(path: Path) -> None:
    """Raise ValueError for a run file that is not there, before anything is imported to read it."""
    if not path.is_file():
        raise ValueError(f"{path}: no such run file; check the path")


def run(verb: Callable) -> None:
    """Run one verb as a program and exit with its status."""
    application = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    application.command()(verb)
    execute(application)


def execute(application: typer.Typer) -> None:
    """0 done, 1 failed, 2 bad input, 130 interrupted; errors are one line on stderr, `--debug` adds the traceback."""
    debug = "--debug" in sys.argv
    arguments = [a for a in sys.argv[1:] if a != "--debug"]
    prepare_environment()
    # Pillow warns of torn EXIF data in lines of its own; what matters of it is an error or a note of ours.
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        application(args=arguments, standalone_mode=True)
    except ValueError as error:
        _report(error, debug)
        sys.exit(BAD_INPUT)
    except RunFailedError as error:
        _report(error, debug)
        sys.exit(FAILED)
    except OSError as error:
        _report(error, debug)
        sys.exit(FAILED)
    except SystemExit as stopped:
        # typer turns Ctrl-C into this status without a word.
        if stopped.code == INTERRUPTED:
            print("interrupted; start the same command again to go on", file=sys.stderr)
        raise


def _report(error: Exception, debug: bool) -> None:
    if debug:
        traceback.print_exception(error)
    print("error: " + " ".join(str(error).split()), file=sys.stderr)
