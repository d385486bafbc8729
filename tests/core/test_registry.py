"""The registry names every class by reading text, imports one file to load one class, and offers the nearest names."""

import importlib
import inspect
import pkgutil
import subprocess
import sys

import pytest

from medssl.core import registry
from medssl.core.errors import MedsslError


@pytest.mark.parametrize("room", [*registry.ALL, registry.DATASETS], ids=lambda room: room.room)
def test_the_text_of_the_files_names_the_classes_that_importing_them_finds(room: registry.Registry) -> None:
    package = importlib.import_module(room.package)
    base = getattr(importlib.import_module(f"{room.package}.base"), room.base)
    names = set()
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{room.package}.{info.name}")
        for name, kind in vars(module).items():
            own = inspect.isclass(kind) and issubclass(kind, base) and kind.__module__ == module.__name__
            if own and not inspect.isabstract(kind) and not name.startswith("_"):
                names.add(name)
    assert set(room.names()) == names
    assert all(room.load(name).__name__ == name for name in names)


def test_one_name_imports_one_file() -> None:
    code = (
        "import sys; from medssl.core.registry import ENCODERS, METHODS; ENCODERS.names(); METHODS.names()\n"
        "assert 'torch' not in sys.modules\n"
        "from medssl.encoders import ViT\n"
        "print(sorted(m for m in sys.modules if m.startswith('medssl.encoders.')))"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(
        [f"medssl.encoders.{name}" for name in ("base", "check", "decoder", "finer", "tokens", "vit")]
    )


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(MedsslError, match="there is no encoder 'RessNet'; did you mean ResNet"):
        registry.ENCODERS.load("RessNet")
    with pytest.raises(
        MedsslError, match="'SimCRL', which is not an encoder, method or view of medssl; did you mean SimCLR"
    ):
        registry.find("SimCRL")
    with pytest.raises(AttributeError, match=r"module 'medssl.methods' has no attribute 'SimCRL'"):
        registry.METHODS.attribute("SimCRL")


def test_no_name_stands_for_two_classes() -> None:
    names = [name for room in registry.ALL for name in room.names()]
    assert len(set(names)) == len(names)
