"""The command line: each command calls a public function of medssl, whose parameters are the options.

    medssl COMMAND --help
    medssl pretrain --data CACHE --out runs/a --encoder ResNet --encoder.depth 10 --method SimCLR --steps 500

Exit codes: 0 done; 1 a bug in medssl (run again with --debug for the traceback); 2 an error with a message that says what
to do; 3 done, but some scans were rejected; 130 stopped by hand.
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
from medssl.core.atomic import readable_error
from medssl.core.errors import MedsslError, Stopped, nearest, visible

OUT_OF_MEMORY = (
    "the memory is full: expected room for the next array; give fewer --jobs, a smaller --batch-size or --crop"
)


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        target: The function, as "module:name"; it is imported only when the command runs.
        help: The purpose, in one line.
        positional: Parameters whose values may come first, without their option.
    """

    target: str
    help: str
    positional: tuple[str, ...] = ()

    def load(self) -> Any:
        """The command's function."""
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)


COMMANDS = {
    "demo": Command("medssl.cli.demo:demo", "every step on an embedded phantom cohort, from scans to a report"),
    "index": Command(
        "medssl.datasets.index:index",
        "list the scans in folders: a manifest, and a table of rejected files",
        ("sources",),
    ),
    "prepare": Command(
        "medssl.preprocessing.cache:prepare", "orient, resample and cache the scans of a manifest", ("manifest",)
    ),
    "fingerprint": Command(
        "medssl.preprocessing.plan:show_fingerprint",
        "the spacing, size and intensities that prepare would choose for a manifest, and why; writes nothing",
        ("manifest",),
    ),
    "views": Command(
        "medssl.views.preview:preview", "pictures of the views (augmentations) of a recipe, on scans of a cache"
    ),
    "plan": Command(
        "medssl.training.auto.plan:plan",
        "which pretext, encoder, crop, batch and length to pretrain with, why, and hours and memory; writes nothing",
        ("data",),
    ),
    "pretrain": Command("medssl.training.pretrain:pretrain", "pretrain an encoder on scans without labels"),
    "import": Command(
        "medssl.weights.importing:import_weights",
        "public weights -> a run, with a receipt: a start for finetune, an arm of a study, for embed and pretrain",
        ("file",),
    ),
    "study": Command(
        "medssl.studies.study:study", "compare pretrained encoders with training from scratch, at several label budgets"
    ),
    "compare": Command(
        "medssl.studies.compare:compare", "pretrain and compare several methods under the same small budget"
    ),
    "finetune": Command("medssl.training.finetune:finetune", "train one classifier or segmenter"),
    "predict": Command(
        "medssl.training.predict:predict", "masks on each scan's own grid, or class probabilities", ("run", "scans")
    ),
    "embed": Command("medssl.training.predict:embed", "feature vectors of scans", ("run", "scans")),
    "probe": Command(
        "medssl.studies.probe:probe",
        "test frozen features against those of a random encoder: knn, clusters, regression, ...",
        ("run",),
    ),
    "sample": Command(
        "medssl.training.sample:sample", "new scans drawn from a trained VAE, marked as synthetic", ("run",)
    ),
    "export": Command(
        "medssl.exports.export:export",
        "write a trained model for another library, with a model card",
        ("run",),
    ),
    "select": Command(
        "medssl.studies.select:select", "choose the patients to label next, on the features of a pretraining run"
    ),
    "forecast": Command(
        "medssl.studies.forecast:forecast", "what more labels would buy, from the curves of a study", ("study",)
    ),
    "report": Command("medssl.reporting.html.report:report", "one self-contained HTML file about a study", ("runs",)),
    "review": Command(
        "medssl.reporting.dashboard.server:review",
        "open the dashboard in a browser: label-efficiency curves, runs and cases",
        ("runs",),
    ),
    "where": Command(
        "medssl.datasets.manifest:source_files",
        "show which files belong to a scan's pseudonym (on the terminal only)",
        ("out", "scan"),
    ),
    "doctor": Command(
        "medssl.cli.doctor:doctor", "check this machine: packages, decoders, GPU, memory, disk; says what to do"
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command of the command line.

    Args:
        arguments: The command and its options; by default those this process was started with.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    _quiet_warnings()
    try:
        return _run(words)
    except Stopped as error:
        if _on_further_device():  # the first process says so; an exit code above 0 would end it before it has
            return 0
        return _fail(str(error), 130, debug)
    except MedsslError as error:
        return _fail(f"error: {error}", 2, debug)
    except KeyboardInterrupt:
        return _fail("stopped", 130, debug)
    except Exception as error:
        if isinstance(error, OSError):
            return _fail(f"error: {readable_error(error, words)}", 2, debug)
        if isinstance(error, MemoryError):
            return _fail(f"error: {OUT_OF_MEMORY}", 2, debug)
        return _fail(
            f"error: {_place(error)}: this is a bug in medssl; run the command again with --debug to see the traceback",
            1,
            debug,
        )


def _on_further_device() -> bool:
    """Whether this process trains on a further device, started by the process that the user started."""
    return os.environ.get("LOCAL_RANK", "0") != "0"


def _quiet_warnings() -> None:
    """Show each warning as one line, and hide those for developers."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=DeprecationWarning)


def _place(error: BaseException) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {os.path.basename(frame.filename)}:{frame.lineno}"


def _fail(message: str, code: int, debug: bool) -> int:
    if debug:
        print("Traceback, without the messages of errors, which may hold private text:", file=sys.stderr)
        print(traceback_without_texts(typing.cast(BaseException, sys.exception())), file=sys.stderr)
    print(visible(message), file=sys.stderr)
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
    from medssl.cli.arguments import CLASS_OPTIONS, parse_arguments
    from medssl.cli.config_files import typed_classes

    if any("." in name for name in typed_classes(words, CLASS_OPTIONS)) and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # for the user's own class; last, so that no file replaces an installed module
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
    start = "medssl: self-supervised pretraining for medical scans, and a measurement of how many labels it saves\n"
    return "\n".join([start, "usage: medssl COMMAND [--help] [--debug] ...\n", *lines])


if __name__ == "__main__":
    sys.exit(main())
