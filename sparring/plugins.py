"""Objects that settings name: a built-in name, `module:object` or `path.py:object`.

A table of built-ins maps each name to such a string.
"""

from __future__ import annotations

import ast
import difflib
import hashlib
import importlib.util
import inspect
import os
import re
import sys
import sysconfig
import traceback
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.abc import ExecutionLoader
from importlib.util import module_from_spec, spec_from_loader
from itertools import accumulate
from pathlib import Path
from types import ModuleType
from typing import Any

from sparring.errors import SparringError, UsageError, is_out_of_memory

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
NAMEABLE = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_named: dict[str, dict[str, str]] = {}  # file -> name by setting, of the objects that are not built in
_installed: dict[str, str] = {}  # absolute path -> source text that another process has sent


def resolve(setting: str, name: str, built_in: Mapping[str, str]) -> object:
    """The object that `name` stands for.

    A file is executed once, as a module with its own name. It is executed again only if its text has changed.

    Args:
        setting: the setting that holds the name, for error messages.
        name: a key of `built_in`, `module:object` or `path.py:object`.
        built_in: `module:object` by built-in name.

    Raises:
        UsageError: there is no such built-in, module, file or object, or it cannot be imported.
    """
    try:
        found = _find(built_in.get(name, name), built_in)
    except _Unresolved as problem:
        raise UsageError(
            f"{setting} = {name!r}: {problem}. Name an object of your own as module:object or path.py:object."
        ) from problem.__cause__
    file = _file_behind(name)
    if name not in built_in and not file.startswith(str(Path(__file__).parent)):
        _named.setdefault(file, {})[setting] = name
    return found


def users_failure(error: Exception) -> SparringError | None:
    """The error as one sentence with the setting, file and line, if a file raised it that a setting names, or what that
    calls; None of other errors, of those of this package and of a lack of memory."""
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__) if frame.filename in _named]
    if not frames or isinstance(error, SparringError) or is_out_of_memory(error):
        return None
    settings = " and ".join(f"{setting} = {name!r}" for setting, name in _named[frames[-1]].items())
    return SparringError(f"{settings} fails ({described(error)}). Correct it there.")


def _file_behind(name: str) -> str:
    """Where tracebacks find the code of an object that has been resolved."""
    source, _ = _split(name)
    return _absolute(source) if source.endswith(".py") else str(getattr(sys.modules.get(source), "__file__", source))


def call(
    setting: str, factory: Callable[..., object], settings: Mapping[str, Any], options: Mapping[str, Any]
) -> object:
    """Call the factory with all `options`, and with those `settings` that are among its parameters.

    Args:
        setting: the setting that names the factory, such as `objective.name`. Errors about options name
            `objective.options.NAME`.
        settings: values by name; only those that the factory has a parameter for are passed.
        options: keyword arguments that the user gives.

    Raises:
        UsageError: an option is unknown, missing or given twice, the factory refuses its arguments, or it is the user's
            own and raises anything else than a SparringError.
    """
    keywords = arguments(setting, factory, settings, options)
    try:
        return factory(**keywords)
    except SparringError:
        raise
    except (Exception, SystemExit) as error:
        raise _failure(setting, factory, error) from error


def require_taken(
    setting: str, name: str, factory: Callable[..., object], given: Mapping[str, tuple[Any, Any]]
) -> None:
    """Refuse settings that differ from their defaults but have no effect, because the factory does not take them.

    Args:
        given: (value, default) by name.

    Raises:
        UsageError: about the first of them.
    """
    group = setting.rpartition(".")[0]
    for each in not_taken(setting, factory, given):
        value, default = given[each]
        raise UsageError(
            f"{group}.{each} = {value!r} with {setting} = {name!r}, which takes no {each}. Set it to "
            f"{'none' if default is None else default}."
        )


def require_as_option(
    setting: str, name: str, factory: Callable[..., object], given: Mapping[str, tuple[Any, Any]]
) -> None:
    """Refuse settings of built-ins that differ from their defaults, where a user's own object takes an option of that
    name: it would not get the setting's value.

    Args:
        given: (value, default) by name.

    Raises:
        UsageError: about the first of them.
    """
    group, parameters = setting.rpartition(".")[0], _nameable(_parameters(setting, factory, 0))
    for each, (value, default) in given.items():
        if value != default and each in parameters:
            raise UsageError(
                f"{group}.{each} = {value!r} with {setting} = {name!r}: only what is built in gets this setting. Set "
                f"{group}.options.{each} instead, and {group}.{each} to {'none' if default is None else default}."
            )


def not_taken(setting: str, factory: Callable[..., object], given: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """Names of the settings that differ from their defaults and that the factory does not take.

    Args:
        given: (value, default) by name.
    """
    parameters = _parameters(setting, factory, 0)
    if any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return []
    return [name for name, (value, default) in given.items() if value != default and name not in _nameable(parameters)]


def arguments(
    setting: str,
    factory: Callable[..., object],
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
    positional: int = 0,
) -> dict[str, Any]:
    """The keyword arguments that `call` would pass; for callers that call the factory themselves.

    Args:
        positional: number of parameters that the caller passes by position.

    Raises:
        UsageError: an option is unknown, missing or given twice.
    """
    parameters = _parameters(setting, factory, positional)
    _check_options(setting, factory, parameters, settings, options)
    return {name: value for name, value in settings.items() if name in _nameable(parameters)} | dict(options)


def described(error: BaseException) -> str:
    """Type and text of an exception of the user's own code, and the file and line where it was raised."""
    return ", ".join([f"{type(error).__name__}: {str(error).rstrip('.')}", *_place(error)])


def is_external(name: str, built_in: Collection[str]) -> bool:
    """Whether `name` stands for a user's own object."""
    return name not in built_in and ":" in name


def is_users(factory: Callable[..., object]) -> bool:
    """Whether a function or class is defined outside this package, whatever name leads to it."""
    return str(getattr(_within(factory), "__module__", "")).partition(".")[0] != __name__.partition(".")[0]


def absolute(name: str) -> str:
    """`path.py:object` with an absolute path, symbolic links not resolved; any other name unchanged."""
    path, attribute = _split(name)
    return f"{_absolute(path)}:{attribute}" if path.endswith(".py") else name


def source_files(names: Collection[str]) -> dict[str, str]:
    """Source text by absolute path of the files among `names`, of the user's own modules, and of those modules that
    either imports, as this process has loaded them.

    Raises:
        UsageError: a file cannot be read.
    """
    modules = (_own_module(source) for source, _ in map(_split, names) if not source.endswith(".py"))
    paths = [*named_files(names), *(path for path in modules if path is not None)]
    found: dict[str, str] = {}
    try:
        while paths:
            path = paths.pop()
            found[path] = _loaded_text(path) or _text(path)
            paths += _own_imports(path, found[path]) - found.keys()
    except _Unresolved as problem:
        raise UsageError(f"{problem}. Give a Python file that exists.") from problem.__cause__
    return found


def named_files(names: Collection[str]) -> list[str]:
    """Absolute paths of the files among `names` (`path.py:object`); they are loaded from their text."""
    return [_absolute(source) for source, _ in map(_split, names) if source.endswith(".py")]


def text_of(path: str) -> str | None:
    """The text of the file at an absolute path; None if it cannot be read."""
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError):
        return None


def install(sources: Mapping[str, str]) -> None:
    """Use the texts of `source_files` of another process from now on, instead of the files on this host."""
    _installed.update(sources)


def forget_installed() -> None:
    """Use the files on this host again."""
    _installed.clear()


def _failure(setting: str, factory: Callable[..., object], error: BaseException) -> BaseException:
    """What to raise for an error of a factory: a refusal that names the setting, or, in this package's own code, the
    error itself, which is a bug."""
    users, text = is_users(factory), str(error).rstrip(".")
    if isinstance(error, ValueError) or (isinstance(error, TypeError) and not users):
        at = _place(error) if users else []
        where = f" ({', '.join([type(error).__name__, *at])})" if at else ""
        return UsageError(f"{setting}: {_name_of(factory)} refuses its arguments: {text}{where}.")
    return UsageError(f"{setting}: {_name_of(factory)} fails ({described(error)}).") if users else error


def _place(error: BaseException) -> list[str]:
    """`file:line` where an exception left the user's own code, or where there is none, in a library; or nothing."""
    ours = (str(Path(__file__).parent), "<frozen", "<string>", importlib.__path__[0])
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(ours)]
    frames = [frame for frame in frames if not _is_installed(frame.filename)] or frames
    return [f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"] if frames else []


class _Unresolved(Exception):
    """Why a name cannot be resolved. Its cause is the exception of the import."""


class _Text(ExecutionLoader):
    """Loads a module from a text, so that tracebacks show its lines even if the file does not exist here."""

    def __init__(self, path: str, text: str) -> None:
        self.path, self.text = path, text

    def get_source(self, fullname: str) -> str:
        return self.text

    def get_filename(self, fullname: str) -> str:
        return self.path


def _find(name: str, built_in: Mapping[str, str]) -> object:
    source, attribute = _split(name)
    if not source or not attribute:
        raise _Unresolved(_unknown_name(name, built_in))
    module = _from_file(_absolute(source)) if source.endswith(".py") else _import(source)
    found: object = getattr(module, attribute, _Unresolved)
    if found is _Unresolved:
        public = [each for each in vars(module) if not each.startswith("_")]
        raise _Unresolved(f"{source} has no {attribute!r}{_nearest(attribute, public)}")
    return found


def _split(name: str) -> tuple[str, str]:
    source, _, attribute = name.rpartition(":")
    return source, attribute


def _absolute(path: str) -> str:
    """Symbolic links are not resolved, because other hosts use the same path."""
    return os.path.abspath(Path(path).expanduser())


def _own_module(name: str) -> str | None:
    """The file of a module, where it is Python and no part of an installed package, whose version tells what it is, nor
    of this one, however it is installed."""
    if name.partition(".")[0] == __name__.partition(".")[0]:
        return None
    try:
        spec = importlib.util.find_spec(name) if name.replace(".", "").isidentifier() else None
    except (ImportError, ValueError):  # a parent that is no package; a module without a spec
        return None
    file = "" if spec is None else spec.origin or ""
    return os.path.abspath(file) if file.endswith(".py") and not _is_installed(file) else None


def _is_installed(file: str) -> bool:
    return any(Path(file).is_relative_to(sysconfig.get_path(kind)) for kind in ("stdlib", "purelib", "platlib"))


def _own_imports(path: str, text: str) -> set[str]:
    """The files of the user's own modules that a source imports, with the packages that they are in."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except SyntaxError:  # who imports it says so
        return set()
    here, names = Path(path).parent, set[tuple[Path, str]]()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {(here, each.name) for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = here if node.level == 0 else here.joinpath(*[".."] * (node.level - 1))
            module = node.module or ""
            names |= {(start, module), *((start, f"{module}.{each.name}".strip(".")) for each in node.names)}
    found = (_file_of(each, start) for start, name in names for each in accumulate(name.split("."), "{}.{}".format))
    return {path for path in found if path is not None}


def _file_of(name: str, folder: Path) -> str | None:
    """The file of a module beside a source that imports it, or anywhere on the path; None: it is not the user's own."""
    if not name:
        return None
    beside = folder.joinpath(*name.split("."))
    for candidate in (beside.with_name(f"{beside.name}.py"), beside / "__init__.py"):
        if candidate.is_file():
            return os.path.abspath(candidate)
    first = name.split(".")[0]
    return _own_module(name) if first in sys.modules and _own_module(first) is not None else None


def _unknown_name(name: str, built_in: Mapping[str, str]) -> str:
    if name.endswith(".py"):
        return f"the object's name is missing; write {name}:NAME"
    known = f". Built in: {', '.join(built_in)}" if built_in else ""
    return f"no such name{_nearest(name, built_in)}{known}"


def _nearest(name: str, known: Iterable[str]) -> str:
    by_letters = {each.lower(): each for each in known}
    close = difflib.get_close_matches(name.lower(), by_letters, n=1, cutoff=0.0)
    return f"; the nearest is {by_letters[close[0]]}" if close else ""


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:  # importing runs the user's own code
        raise _Unresolved(
            f"the module cannot be imported ({described(error)}); it must be installed, or be in the current folder"
        ) from error


def _from_file(path: str) -> ModuleType:
    name, text = _module_name(path), _text(path)
    if _loaded_text(path) != text:
        _execute(name, path, text)
    return sys.modules[name]


def _module_name(path: str) -> str:
    """The same in every process, so that objects pickled in one can be unpickled in another."""
    stem = re.sub(r"\W", "_", Path(path).stem)
    return f"sparring_plugin_{stem}_{hashlib.blake2b(path.encode(), digest_size=4).hexdigest()}"


def _text(path: str) -> str:
    if path in _installed:
        return _installed[path]
    try:
        return Path(path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise _Unresolved(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from error


def _loaded_text(path: str) -> str | None:
    loader = getattr(sys.modules.get(_module_name(path)), "__loader__", None)
    return loader.text if isinstance(loader, _Text) else None


def _execute(name: str, path: str, text: str) -> None:
    loader = _Text(path, text)
    spec = spec_from_loader(name, loader)
    if spec is None:
        raise _Unresolved(f"{path} cannot be loaded")
    module = sys.modules[name] = module_from_spec(spec)  # before it runs: dataclasses and pickle look it up there
    try:
        with _importable(str(Path(path).parent)):
            loader.exec_module(module)
    except (Exception, SystemExit) as error:  # the user's own code may raise anything
        del sys.modules[name]
        raise _Unresolved(f"{path} cannot be imported ({described(error)})") from error


@contextmanager
def _importable(folder: str) -> Iterator[None]:
    """A plugin may import modules of its own folder."""
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        sys.path.remove(folder)


def _parameters(setting: str, factory: Callable[..., object], positional: int) -> Mapping[str, inspect.Parameter]:
    """The parameters of the factory after the first `positional`."""
    try:
        every = inspect.signature(factory).parameters
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"{setting}: {factory!r} is not a function or class with a known signature ({error})."
        ) from error
    passed = [name for name, each in every.items() if each.kind in POSITIONAL][:positional]
    return {name: each for name, each in every.items() if name not in passed}


def _check_options(
    setting: str,
    factory: Callable[..., object],
    parameters: Mapping[str, inspect.Parameter],
    settings: Mapping[str, Any],
    options: Mapping[str, Any],
) -> None:
    prefix = f"{setting.rpartition('.')[0]}.options."
    takes = f"{_name_of(factory)} takes {_shown(parameters, settings)}"
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    for name, value in options.items():
        if name in settings:
            raise UsageError(f"{prefix}{name} = {value!r}: the run already passes {name}. Remove the option; {takes}.")
        if name not in _nameable(parameters) and not takes_any:
            raise UsageError(f"{prefix}{name} = {value!r}: no such option; {takes}.")
    for name in _nameable(parameters):
        if parameters[name].default is inspect.Parameter.empty and name not in settings and name not in options:
            raise UsageError(f"{prefix}{name} is missing. Set it; {takes}.")


def _nameable(parameters: Mapping[str, inspect.Parameter]) -> list[str]:
    return [name for name, each in parameters.items() if each.kind in NAMEABLE]


def _shown(parameters: Mapping[str, inspect.Parameter], settings: Mapping[str, Any]) -> str:
    """The options of a factory, for a message."""
    own = (parameters[name] for name in _nameable(parameters) if name not in settings)
    options = [
        each.name if each.default is inspect.Parameter.empty else f"{each.name} = {each.default!r}" for each in own
    ]
    return ", ".join(options) or "no options"


def _name_of(factory: Callable[..., object]) -> str:
    inner = _within(factory)
    return getattr(inner, "__qualname__", None) or repr(inner)


def _within(factory: Callable[..., object]) -> Callable[..., object]:
    while hasattr(factory, "func"):  # a partial
        factory = factory.func
    return factory
