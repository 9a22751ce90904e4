"""Config files and key=value overrides as plain values, and what is wrong with them in one line.

    values = merged(read_values("config.yaml"), parsed_override("train.epochs=3"))
"""
import difflib
import re
from pathlib import Path
from typing import Any, get_args, get_origin

import yaml
from pydantic import ValidationError

from core.errors import UserError
from core.kinds import Section
from core.schema import Config

# in place of pydantic's messages, which speak of Python types
PLAIN = {"tuple_type": "should be a list [low, high]", "missing": "should be a list of two numbers",
         "too_long": "should be a list of two numbers", "model_type": "should be a mapping of keys",
         "path_type": "should be a path", "string_pattern_mismatch": "does not have the form described in config.yaml"}


class _Plain(yaml.SafeLoader):
    """YAML without aliases: a few lines of them can expand to more than fits in memory."""

    def compose_node(self, parent, index):
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not allowed")
        return super().compose_node(parent, index)


def read_values(path: str | Path) -> dict[str, Any]:
    """A config file's values, not yet checked. UserError if there is none or it is no mapping in YAML."""
    try:
        values = _parse(Path(path).read_text(encoding="utf-8"), Config)
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file; give one with --config") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a config file ({error})") from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(f"{path}: is not valid YAML ({_one_line(error)})") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: must be a mapping of config.yaml's keys")
    return values


def parsed_override(text: str) -> dict[str, Any]:
    """section.key=value -> {"section": {"key": value}}"""
    key, separator, value = text.partition("=")
    if not separator or not re.fullmatch(r"\w+(\.\w+){0,3}", key):
        raise UserError(f"'{_one_line(text)}': an override is written key=value, e.g. train.epochs=3")
    kind = kind_of(key)
    listed = _takes_list(kind) and value.startswith("[") and value.endswith("]")
    if kind is None or (_takes_text(kind) and not listed):  # an unknown key is reported later
        values = None if value in ("", "null") else value
    else:
        try:
            values = _parse(value, kind)
        except (yaml.YAMLError, RecursionError, ValueError) as error:
            raise UserError(f"{key}={value}: is not valid YAML ({_one_line(error)})") from None
    for part in reversed(key.split(".")):
        values = {part: values}
    return values


def _parse(text: str, kind: object) -> Any:
    """Parses YAML; kind: the type annotation of its value."""
    loader = _Plain(text)
    try:
        node = loader.get_single_node()
        _keep_texts(node, kind)
        return loader.construct_document(node) if node else None
    finally:
        loader.dispose()


def _keep_texts(node: yaml.Node | None, kind: object) -> None:
    """Keeps 007, 2024-05-01 and yes as text if the setting is a text or a path."""
    if isinstance(node, yaml.MappingNode) and _is_section(kind):
        for key, value in node.value:
            field = kind.model_fields.get(key.value) if isinstance(key, yaml.ScalarNode) else None
            _keep_texts(value, field and field.annotation)
    elif isinstance(node, yaml.SequenceNode) and _takes_list(kind):
        for item in node.value:
            _keep_texts(item, kind)
    elif isinstance(node, yaml.ScalarNode) and _takes_text(kind) and node.tag != "tag:yaml.org,2002:null":
        node.tag = "tag:yaml.org,2002:str"


def kind_of(key: str) -> object:
    """The type annotation of a key such as train.out_dir; None if there is no such key."""
    kind = Config
    for part in key.split("."):
        field = kind.model_fields.get(part) if _is_section(kind) else None
        kind = field and field.annotation
    return kind


def _takes_text(kind: object) -> bool:
    return kind in (str, Path) or any(map(_takes_text, get_args(kind)))


def _takes_list(kind: object) -> bool:
    """Whether a list of any length is allowed."""
    return (get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis) or any(map(_takes_list, get_args(kind)))


def _is_section(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def merged(base: dict, update: dict) -> dict:
    """Nested mappings, those of `update` over those of `base`."""
    values = dict(base)
    for key, value in update.items():
        both = isinstance(base.get(key), dict) and isinstance(value, dict)
        values[key] = merged(base[key], value) if both else value
    return values


def explained(error: ValidationError) -> str:
    """The first fault as one line: key, value, what is allowed; for an unknown key, the most similar known one."""
    finding = error.errors(include_url=False)[0]
    # pydantic appends positions inside unions and lists; they are cut off below.
    key = ".".join(str(part) for part in finding["loc"])
    known = known_keys(Config)
    if finding["type"] == "extra_forbidden":
        if isinstance(finding["input"], dict) and finding["input"]:
            key += f".{next(iter(finding['input']))}"
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        return f"unknown config key {_one_line(key)}" + (f"; did you mean {near[0]}?" if near else "; see config.yaml")
    key = max((k for k in known if f"{key}.".startswith(f"{k}.")), key=len, default=key)
    if finding["type"] == "missing":
        return f"{key} is missing; config.yaml shows all keys"
    findings = [f for f in error.errors(include_url=False) if f"{'.'.join(map(str, f['loc']))}.".startswith(f"{key}.")]
    ours = [f for f in findings if f["type"] == "value_error"]  # says more than what another type would allow
    plain = PLAIN | ({"tuple_type": "should be a list"} if _takes_list(kind_of(key)) else {})
    allowed = " or ".join(dict.fromkeys(
        plain.get(f["type"], f["msg"].removeprefix("Input ").removeprefix("Value error, ")) for f in ours or findings))
    return f"{key}={_one_line(finding['input'])}: {allowed}"


def known_keys(section: type[Section], prefix: str = "") -> list[str]:
    keys = []
    for name, field in section.model_fields.items():
        keys.append(prefix + name)
        if _is_section(field.annotation):
            keys += known_keys(field.annotation, f"{prefix}{name}.")
    return keys


def _one_line(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 160 else text[:157] + "…"
