"""The command line: each command is a function of medssl, its parameters are the options.

    medssl COMMAND --help
    medssl pretrain --data CACHE --out runs/a --encoder ResNet --encoder.depth 10 --method SimCLR --steps 500

Exit codes: 0 done, 2 an error that the message says how to fix, 3 done but some scans were rejected, 1 a bug in medssl
(run again with --debug for the traceback), 130 stopped by hand.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
import typing
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from medssl.cli.messages import traceback_without_texts
from medssl.core.atomic import DISK_FULL_CODES, readable_error
from medssl.core.errors import MedsslError, Stopped, nearest


@dataclass(frozen=True)
class Command:
    """A command: where its function is, its purpose, and which parameters may stand first without their option."""

    target: str
    help: str
    positional: tuple[str, ...] = ()

    def load(self) -> Any:
        """The command's function."""
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)


COMMANDS = {
    "demo": Command("medssl.cli.demo:demo", "the whole path on an embedded phantom cohort, ends with a report"),
    "index": Command(
        "medssl.datasets.index:index", "walk folders of scans into a manifest and a table of rejects", ("sources",)
    ),
    "prepare": Command(
        "medssl.preprocessing.cache:prepare", "orient, resample and cache the scans of a manifest", ("manifest",)
    ),
    "plan": Command(
        "medssl.preprocessing.plan:plan",
        "what prepare would make of a manifest, and why; writes nothing",
        ("manifest",),
    ),
    "views": Command("medssl.views.preview:preview", "pictures of what a recipe's views do to scans of a cache"),
    "pretrain": Command("medssl.training.pretrain:pretrain", "pretrain an encoder on scans without labels"),
    "study": Command("medssl.studies.study:study", "what the pretraining is worth: arms x label budgets x draws"),
    "compare": Command(
        "medssl.studies.compare:compare", "every method under one budget, probed frozen: which is worth it here?"
    ),
    "finetune": Command("medssl.training.finetune:finetune", "train one classifier or segmenter"),
    "predict": Command(
        "medssl.training.predict:predict", "masks on each scan's own grid, or class probabilities", ("run", "scans")
    ),
    "embed": Command("medssl.training.predict:embed", "feature vectors of scans", ("run", "scans")),
    "probe": Command(
        "medssl.studies.probe:probe",
        "frozen features against a random encoder: knn, clusters, anomaly, regression, ...",
        ("run",),
    ),
    "sample": Command("medssl.training.sample:sample", "new scans drawn from a VAE, marked as synthetic", ("run",)),
    "report": Command("medssl.reporting.html.report:report", "one self-contained HTML file about a study", ("runs",)),
    "review": Command(
        "medssl.reporting.dashboard.server:review",
        "the dashboard: curves, runs and cases on a page of this machine",
        ("runs",),
    ),
    "where": Command(
        "medssl.datasets.manifest:source_files",
        "which files a scan's pseudonym stands for (on the terminal only)",
        ("out", "scan"),
    ),
    "doctor": Command("medssl.cli.doctor:doctor", "what this machine has, what is missing, what to do"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Words of the command line; those of this process by default.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    if os.getcwd() not in sys.path:
        sys.path.append(
            os.getcwd()
        )  # for the user's own classes; last, so that no file here replaces an installed module
    _quiet_warnings()
    try:
        return _run(words)
    except Stopped as error:
        return _fail(str(error), 130, debug)
    except MedsslError as error:
        return _fail(f"error: {error}", 2, debug)
    except KeyboardInterrupt:
        return _fail("stopped", 130, debug)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in DISK_FULL_CODES:
            return _fail(f"error: {readable_error(error)}", 2, debug)
        return _fail(f"error: {_place(error)}, a bug in medssl; run again with --debug", 1, debug)


def _quiet_warnings() -> None:
    """Show warnings as single lines, and none that only developers can act on."""
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)


def _place(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {os.path.basename(frame.filename)}:{frame.lineno}"


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        print("Traceback, without the texts of errors:", file=sys.stderr)
        print(traceback_without_texts(typing.cast(BaseException, sys.exception())), file=sys.stderr)
    print(message, file=sys.stderr)
    return code


def _run(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"medssl {version('medssl')}")
        return 0
    name, *rest = words
    if name not in COMMANDS:
        raise MedsslError(f"there is no command {name!r}{nearest(name, COMMANDS)}")
    return _run_command(name, rest)


def _run_command(name: str, words: list[str]) -> int:
    from medssl.cli.arguments import parse_arguments

    command = COMMANDS[name]
    function = command.load()
    settings = parse_arguments(function, f"medssl {name}", command.help, command.positional, words)
    if settings is None:
        return 0
    result = function(**settings)
    from medssl.cli import terminal

    return terminal.show_result(name, result, settings)


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    start = "medssl: self-supervised pretraining for medical scans, and an honest account of what it was worth\n"
    return "\n".join([start, "usage: medssl COMMAND [--help] [--debug] ...\n", *lines])


if __name__ == "__main__":
    sys.exit(main())
