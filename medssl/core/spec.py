"""The class and arguments that an object was built with, as data without loss, and new objects from that data.

    spec = describe(ResNet(dims=2, depth=50))   # {"class_path": "ResNet", "init_args": {"dims": 2, "depth": 50, ...}}
    encoder = rebuild(spec)                     # new weights, the same arguments

The arguments are captured when the object is built, so no class has to keep them as attributes. A spec is JSON and can be
pasted into a YAML configuration. Values that JSON lacks are dicts with one key: `{"$tuple": [1, 2]}`,
`{"$float": "nan"}`, `{"$dict": [[key, value], ...]}`.

Reading a spec never imports code: it names a registered class by its bare name. The user's own class has a dotted path in
a spec, and `rebuild` takes it only from `external`, an object that the user's own code made.
"""

from __future__ import annotations

import copy
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import numpy as np

from medssl.core import registry
from medssl.core.errors import MedsslError

NUMPY_NUMBERS = (np.bool_, np.integer, np.float16, np.float32, np.float64)
SPECIAL_FLOATS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Recorded:
    """Base of every class whose objects a run record can describe: encoders, methods, views.

    Attributes:
        built_inside: Arguments that are lists of factories, each with the name of the argument that the object passes to
            them: `{"parts": "encoder"}` means that `self.parts` are the objects that the factories in the argument
            `parts` made from `encoder`. A factory may be any function, so the record describes these objects.
        must_be_recordable: Whether building an object fails if an argument cannot be recorded. If not, `describe` fails.
    """

    built_inside: ClassVar[dict[str, str]] = {}
    must_be_recordable: ClassVar[bool] = True
    _arguments: dict[str, Any]
    _external: dict[str, type]  # dotted path -> class, for those of this object that lie outside medssl
    _problem: str  # why the arguments could not be recorded

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        instance = super().__new__(cls)
        state = vars(instance)  # not setattr: torch's modules take attributes only after their __init__
        state["_external"] = {} if _is_registered(cls) else {_path(cls): cls}
        try:
            bound = _signature(cls).bind(*args, **kwargs)
        except TypeError:  # copy and pickle make an empty object and fill it; any other call fails in __init__
            return instance
        try:
            state["_arguments"] = _encode_arguments(cls, bound, state["_external"])
        except MedsslError as error:
            if cls.must_be_recordable:
                raise
            state["_problem"] = str(error)
        return instance


R = TypeVar("R", bound=Recorded)
T = TypeVar("T")


def describe(thing: Recorded) -> dict[str, Any]:
    """The class and arguments that an object was built with, as JSON data.

    Args:
        thing: An encoder, method or view.

    Returns:
        `{"class_path": ..., "init_args": {...}}`, with every argument and nested objects in the same form.

    Raises:
        MedsslError: `thing` is of another kind, or one of its arguments cannot be recorded.
    """
    if not isinstance(thing, Recorded):
        raise MedsslError(
            f"a {type(thing).__name__} cannot be recorded: expected an encoder, a method or a view; derive it from Encoder, "
            f"Method or View"
        )
    if "_problem" in vars(thing):
        raise MedsslError(thing._problem)
    arguments = copy.deepcopy(thing._arguments)
    for name, shared in thing.built_inside.items():
        arguments[name] = [_without(describe(part), shared) for part in getattr(thing, name)]
    return {"class_path": _path(type(thing)), "init_args": arguments}


def rebuild(spec: dict[str, Any], base: type[T], external: Recorded | None = None, **more: Any) -> T:
    """A new object as `spec` describes it.

    Args:
        spec: What `describe` returned.
        base: The expected base class, such as Encoder; another class is rejected before it is built.
        external: An object of the user's own class. The spec may name this class and those of its arguments, although
            they are outside medssl.
        more: Further arguments of the object, beside those in the spec.

    Raises:
        MedsslError: The spec names a class that it must not name, or its arguments do not fit.
    """
    build = _factory(spec, _external_classes(external))
    if not issubclass(build.args[0], base):
        raise MedsslError(
            f"the record names {spec['class_path']}, which is not a kind of {base.__name__}: expected the name of one; restore the "
            f"record from a copy, or run the job again"
        )
    return build(**more)


def twin(thing: R) -> R:
    """A new object of the same class, built with the same arguments."""
    return rebuild(describe(thing), type(thing), external=thing)


def plain(value: Any) -> Any:
    """A spec, or any part of a record, in the form of a YAML file: tuples as lists, NaN as "nan"."""
    if isinstance(value, list):
        return [plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "$tuple" in value:
        return plain(value["$tuple"])
    if "$float" in value:
        return value["$float"]
    if "$dict" in value:
        return {str(plain(key)): plain(item) for key, item in value["$dict"]}
    return {key: plain(item) for key, item in value.items()}


def describes_same(spec: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two specs describe the same object; a list and a tuple with the same items count as equal.

    An argument that one of them lacks counts as its default: the class got it after that record was written.

    Args:
        spec: What `describe` returned, or the same read back from JSON.
        other: The spec to compare it with.
    """
    return plain(_completed(spec)) == plain(_completed(other))


def _completed(spec: Any) -> Any:
    """A spec with the defaults of the arguments that it lacks, where its classes are registered."""
    if isinstance(spec, list):
        return [_completed(item) for item in spec]
    if not isinstance(spec, dict):
        return spec
    if not registry.is_registered(str(spec.get("class_path"))):
        return {key: _completed(item) for key, item in spec.items()}
    kind = registry.find(spec["class_path"])
    parameters = _signature(kind).parameters.values()
    plain_defaults = {p.name: p.default for p in parameters if p.default is None or type(p.default) in (bool, int, str)}
    return spec | {"init_args": plain_defaults | {key: _completed(item) for key, item in spec["init_args"].items()}}


def _signature(kind: type) -> inspect.Signature:
    """The signature of `__init__` without self."""
    signature = inspect.signature(kind.__init__)  # type: ignore[misc]
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _path(kind: type) -> str:
    return kind.__name__ if _is_registered(kind) else f"{kind.__module__}.{kind.__qualname__}"


def _is_registered(kind: type) -> bool:
    return registry.is_in_registered_room(kind.__module__) and kind.__name__ == kind.__qualname__


def _external_classes(thing: Recorded | None) -> dict[str, type]:
    if thing is None:
        return {}
    parts = [part for name in thing.built_inside for part in getattr(thing, name)]
    return functools.reduce(dict.__or__, (_external_classes(part) for part in parts), dict(thing._external))


def _without(spec: dict[str, Any], name: str) -> dict[str, Any]:
    return spec | {"init_args": {key: value for key, value in spec["init_args"].items() if key != name}}


def _encode_arguments(cls: type[Recorded], bound: inspect.BoundArguments, external: dict[str, type]) -> dict[str, Any]:
    """All arguments as data; a default that cannot be recorded is left out, since the class defines it."""
    arguments = {}
    for name, parameter in bound.signature.parameters.items():
        value = bound.arguments.get(name, parameter.default)
        if name in cls.built_inside or value is inspect.Parameter.empty:
            continue
        try:
            arguments[name] = _encode(value, f"{cls.__name__} got {name}", external)
        except MedsslError:
            if value is not parameter.default:
                raise
    return arguments


def _encode(value: Any, where: str, external: dict[str, type]) -> Any:
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if isinstance(value, NUMPY_NUMBERS):
        return _encode(value.item(), where, external)
    if kind is float:
        return value if math.isfinite(value) else {"$float": str(value)}
    if kind in (list, tuple):
        items = [_encode(item, f"{where}[{i}]", external) for i, item in enumerate(value)]
        return items if kind is list else {"$tuple": items}
    if kind is dict:
        pairs = [
            [_encode(k, f"{where}, a key", external), _encode(v, f"{where}[{k!r}]", external)] for k, v in value.items()
        ]
        ambiguous = any(type(key) is not str or key.startswith("$") or key == "class_path" for key in value)
        return {"$dict": pairs} if ambiguous else dict(pairs)
    if isinstance(value, Recorded):
        external |= _external_classes(value)
        return describe(value)
    raise MedsslError(
        f"{where} = a {kind.__module__}.{kind.__qualname__}, which a run record cannot hold: expected numbers, texts, None, "
        f"lists, tuples or dicts of these, an encoder, a method or a view; pass a name or numbers, and let the class make "
        f"the object from them"
    )


def _decode(value: Any, external: dict[str, type]) -> Any:
    if isinstance(value, list):
        return [_decode(item, external) for item in value]
    if not isinstance(value, dict):
        return value
    if "class_path" in value:
        return _factory(value, external)()
    if "$tuple" in value:
        return tuple(_decode(value["$tuple"], external))
    if "$float" in value:
        return SPECIAL_FLOATS[value["$float"]]
    if "$dict" in value:
        return {_decode(key, external): _decode(item, external) for key, item in value["$dict"]}
    return {key: _decode(item, external) for key, item in value.items()}


def _factory(spec: dict[str, Any], external: dict[str, type]) -> functools.partial:
    """`_build` of a class and its arguments, as a spec describes them; both are checked before it is called."""
    if not isinstance(spec, dict) or not isinstance(spec.get("init_args"), dict):
        raise MedsslError(
            "the record has something else where it must describe an object: expected class_path and init_args; restore the "
            "record from a copy, or run the job again"
        )
    kind = _class_named(spec.get("class_path"), external)
    try:
        arguments = {
            name: [_part(item, kind.built_inside[name], external) for item in value]
            if name in kind.built_inside
            else _decode(value, external)
            for name, value in spec["init_args"].items()
        }
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        raise MedsslError(
            f"the arguments of {kind.__name__} in the record are broken ({type(error).__name__}): expected them as medssl "
            f"wrote them; restore the record from a copy, or run the job again"
        ) from error
    return functools.partial(_build, kind, arguments)


def _part(spec: dict[str, Any], shared: str, external: dict[str, type]) -> Callable[[Any], Any]:
    """One factory of a list named in `built_inside`: its owner calls it with the argument that the parts share."""
    build = _factory(spec, external)
    return lambda value: build(**{shared: value})


def _build(kind: type, arguments: dict[str, Any], **more: Any) -> Any:
    given = arguments | more
    signature = _signature(kind)
    if unknown := sorted(given.keys() - signature.parameters.keys()):
        raise MedsslError(
            f"the record gives {kind.__name__} the argument {unknown[0]!r}: expected {', '.join(signature.parameters)}; "
            f"another version of medssl wrote the record: use that version, or run the job again"
        )
    bound = inspect.BoundArguments(signature, given)
    try:
        return kind(*bound.args, **bound.kwargs)
    except (TypeError, ValueError) as error:
        raise MedsslError(
            f"{kind.__name__} cannot be built from the record ({type(error).__name__}): expected arguments of the right "
            f"kinds; restore the record from a copy, or run the job again"
        ) from error


def _class_named(path: Any, external: dict[str, type]) -> type[Recorded]:
    if isinstance(path, str) and path in external:
        return external[path]
    room, _, name = str(path).rpartition(".")
    if room and not room.startswith("medssl."):
        raise MedsslError(
            f"the record names the class {path}, which is outside medssl, and a record is never allowed to import code: "
            f"expected the class on the command line; if it is your own, add --encoder {path}"
        )
    return registry.find(name)
