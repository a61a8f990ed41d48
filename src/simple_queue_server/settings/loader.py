"""Converts a YAML file to a typed, frozen settings object; error messages name the place in the file.

Generic: knows nothing about the sections. A settings type is a tree of ``msgspec.Struct``.

- Ruby symbols are read as plain text: ``:port: 5672`` is ``port: 5672``, ``level: :info`` is ``level: info``.

- ``${NAME}`` in a string value is replaced by that environment variable. ``$${`` is a literal ``${``.

- An empty value (``key:`` or ``key: ~``) selects the default.

- ERB (``<%= … %>``), which the Ruby service evaluated, is an error that suggests ``${NAME}``.
"""

from __future__ import annotations

import os
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml

from simple_queue_server.errors import SettingsError
from simple_queue_server.nearest import hint
from simple_queue_server.validation import YAML_KINDS, allowed_values, explain, fields, metas, type_at, value_type

T = TypeVar("T", bound=msgspec.Struct)

_SYMBOL = re.compile(r":\"?[A-Za-z_]\w*[?!]?\"?$")
_VARIABLE = re.compile(r"\$(\$\{)|\$\{([A-Za-z_]\w*)\}")
_ERB = re.compile(r"<%.*?%>", re.DOTALL)
_ERB_VARIABLE = re.compile(r"\bENV(?:\.fetch\(|\[)\s*(?:\"(\w+)\"|'(\w+)')")


def load(path: Path, settings_type: type[T], environ: Mapping[str, str] = os.environ) -> T:
    """Read the file at ``path`` into ``settings_type``. Raises SettingsError."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise SettingsError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise SettingsError(f"{path}: is not UTF-8 text (byte {error.start})") from None
    return parse(text, settings_type, source=str(path), environ=environ)


def parse(text: str, settings_type: type[T], *, source: str, environ: Mapping[str, str] = os.environ) -> T:
    """Parse YAML ``text`` into ``settings_type``; ``source`` names it in errors. Raises SettingsError."""
    try:
        tree = yaml.load(text, _Loader)  # noqa: S506 - _Loader is a SafeLoader
    except yaml.YAMLError as error:
        raise SettingsError(f"{source}: {_erb_in_file(text) or _not_yaml(error)}") from None
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise SettingsError(f"{source}: must be a mapping of sections, not a {_kind(tree)}")
    try:
        tree = _fill_in(tree, settings_type, "", environ)
        return msgspec.convert(tree, settings_type, strict=False, dec_hook=_convert)
    except msgspec.ValidationError as error:
        raise SettingsError(f"{source}: {_readable(error, settings_type)}") from None
    except SettingsError as error:
        raise SettingsError(f"{source}: {error}") from None


class _Loader(yaml.SafeLoader):
    """Safe YAML, plus Ruby symbols; duplicate keys are an error."""


def _symbol(loader: _Loader, node: yaml.Node) -> str:
    return str(loader.construct_scalar(typing.cast("yaml.ScalarNode", node))).removeprefix(":").strip('"')


def _mapping(loader: _Loader, node: yaml.Node) -> dict[Any, Any]:
    mapping = typing.cast("yaml.MappingNode", node)
    loader.flatten_mapping(mapping)
    result: dict[Any, Any] = {}
    for key_node, value_node in mapping.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise yaml.constructor.ConstructorError(None, None, "a key must be plain text", key_node.start_mark)
        key = loader.construct_object(key_node, deep=True)
        if key in result:
            raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
        result[key] = loader.construct_object(value_node, deep=True)
    return result


_Loader.add_implicit_resolver("!ruby/symbol", _SYMBOL, [":"])
for _tag in ("!ruby/symbol", "!ruby/sym"):
    _Loader.add_constructor(_tag, _symbol)
_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)


def _fill_in(value: Any, wanted: Any, path: str, environ: Mapping[str, str]) -> Any:
    """Walk the tree along with its type: substitute variables, drop empty values, refuse unknown keys."""
    if isinstance(value, str):
        _refuse_erb(value, path)
        return _VARIABLE.sub(lambda match: _variable(match, path, environ), value)
    if isinstance(value, list):
        return [_fill_in(item, None, f"{path}[{i}]", environ) for i, item in enumerate(value)]
    if not isinstance(value, dict):
        return value
    known = fields(wanted)
    result = {}
    for key, item in value.items():
        here = f"{path}.{key}" if path else str(key)
        _refuse_erb(str(key), path or "the file")
        if known is not None and key not in known:
            raise SettingsError(f"{here}: unknown key{hint(str(key), known, repr)}")
        if known is None and not isinstance(key, str):
            raise SettingsError(f"{here}: a name must be text, not a {_kind(key)}; put it in quotes")
        if known is None:
            result[key] = _entry(item, value_type(wanted), here, environ)
        elif item is not None:
            result[key] = _fill_in(item, known[key].type, here, environ)
    return result


def _entry(item: Any, item_type: Any, path: str, environ: Mapping[str, str]) -> Any:
    """A value of a mapping with free names. It is converted here, where its name is known for error messages."""
    is_section = fields(item_type) is not None
    filled = _fill_in({} if item is None and is_section else item, item_type, path, environ)
    if item_type is None:
        return filled
    try:
        msgspec.convert(filled, item_type, strict=False, dec_hook=_convert)
    except msgspec.ValidationError as error:
        raise SettingsError(_readable(error, item_type, path)) from None
    return filled


def _convert(wanted: type[Any], value: Any) -> Any:
    """Convert what msgspec doesn't: paths, with ``~`` for the home directory."""
    if wanted is Path and isinstance(value, str) and value:
        return Path(value).expanduser()
    raise ValueError(f"must be {'the path of a file' if wanted is Path else wanted.__name__}, not {value!r}")


def _refuse_erb(text: str, path: str) -> None:
    """Raise SettingsError for Ruby's ERB, which would otherwise be taken literally, as a wrong password for example."""
    if tag := _ERB.search(text):
        raise SettingsError(f"{path}: {_erb_remedy(tag[0])}")


def _erb_in_file(text: str) -> str:
    tag = _ERB.search(text)
    return f"line {text.count(chr(10), 0, tag.start()) + 1}: {_erb_remedy(tag[0])}" if tag else ""


def _not_yaml(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    return f"is not YAML: {problem}{f' (line {mark.line + 1}, column {mark.column + 1})' if mark else ''}"


def _erb_remedy(tag: str) -> str:
    name = _ERB_VARIABLE.search(tag)
    remedy = f"write ${{{name[1] or name[2]}}}" if name else "write ${NAME} for the environment variable NAME"
    return f"has ERB ({tag.split(maxsplit=1)[0]} … %>), which isn't evaluated; {remedy}"


def _variable(match: re.Match[str], path: str, environ: Mapping[str, str]) -> str:
    if match[1]:
        return match[1]
    name = match[2]
    if name not in environ:
        raise SettingsError(f"{path}: the environment variable {name} is not set")
    return environ[name]


def _readable(error: msgspec.ValidationError, wanted: Any, path: str = "") -> str:
    """For example ``server.max_in_flight must be at least 1; for example, max_in_flight: 32``."""
    problem = explain(error, wanted, YAML_KINDS)
    place = ".".join(filter(None, (path, problem.place)))
    if problem.is_sentence:
        return f"{place}: {problem.text}" if place else problem.text
    return f"{place} {problem.text}{_example(wanted, problem.place)}"


def _example(wanted: Any, place: str) -> str:
    """``; for example, port: 5672``: an example of the type, or else the default."""
    parent, _, name = place.rpartition(".")
    field = (fields(type_at(wanted, parent)) or {}).get(name)
    if field is None:
        return ""
    examples = [example for meta in metas(field.type) for example in meta.examples or ()]
    value = examples[0] if examples else field.default
    if value is None or not isinstance(value, (str, int, float, dict)) or allowed_values(field.type):
        return ""
    return f"; for example, {yaml.safe_dump({name: value}, default_flow_style=True, width=1000).strip()[1:-1]}"


def _kind(value: Any) -> str:
    names = {"str": "text", "int": "number", "float": "number", "bool": "truth value"}
    return names.get(type(value).__name__, type(value).__name__)
