"""YAML in which every value means the same to a person and to every version of the format.

YAML 1.1, which most programs read, makes 10 of `012`, 600 of `10:00`, true of `yes`, and of a key that stands twice it
keeps the last. YAML 1.2 reads all of these otherwise. Here they are refused by name and line; `1e-4` is a number.
"""

import math
import re
from pathlib import Path

import yaml

from lib.core.errors import BadInput

_INTEGER = re.compile(r"[-+]?(0|[1-9]\d*)")
_DECIMAL = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
MAX_DIGITS = 100  # of a whole number; no parameter means more
_TRUTH = {"true": True, "false": False}
_TAG = "tag:yaml.org,2002:"


class _Refused(Exception):
    """What a node may not be, and where it stands."""

    def __init__(self, node: yaml.Node | yaml.Event, reason: str):
        super().__init__(f"line {node.start_mark.line + 1}: {reason}")


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: object) -> yaml.Node:
        if self.check_event(yaml.AliasEvent):  # a few lines of them unfold to gigabytes
            event = self.peek_event()
            raise _Refused(event, f"*{event.anchor} stands for a value elsewhere; write the value itself")
        return super().compose_node(parent, index)


def read_yaml(path: Path) -> dict[str, object]:
    """The mapping that a YAML file holds: text, whole numbers, decimal numbers, true and false, null, lists, mappings.

    Keys are text as they stand: `No` is nobelium. Raises BadInput if the file is missing, is no UTF-8
    text, no YAML or no mapping, or if a value can be read in several ways, is no finite number, or stands under a key
    that the mapping has already; the message names file and line.
    """
    try:
        root = yaml.compose(path.read_text("utf-8-sig"), _Loader)
        if root is None or root.tag == f"{_TAG}null":
            return {}
        if not isinstance(root, yaml.MappingNode):
            raise BadInput(f"{path} is no YAML mapping; write one line a name, such as 'name: value'")
        return _value(root, "")
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error.strerror}); check the name, or write the file") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{path} is no UTF-8 text; save it as UTF-8") from error
    except _Refused as refusal:
        raise BadInput(f"{path}, {refusal}") from refusal
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1
        raise BadInput(f"{path} does not read as YAML: line {line}: {error.problem}; correct it") from error
    except yaml.YAMLError as error:
        raise BadInput(f"{path} does not read as YAML ({str(error).splitlines()[0]}); correct it") from error
    except RecursionError as error:
        raise BadInput(f"{path} nests lists or mappings too deeply to be read; write it plainly") from error


def _value(node: yaml.Node, name: str) -> object:
    """A node's value; `name` is the key that it stands under, in full."""
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
        return [_value(item, name) for item in node.value]
    if isinstance(node, yaml.MappingNode) and node.tag == f"{_TAG}map":
        return _mapping(node, name)
    if isinstance(node, yaml.ScalarNode) and node.tag.startswith(_TAG):
        return _scalar(node, name)
    raise _Refused(node, f"{name} has the tag {node.tag}; write a plain value")


def _mapping(node: yaml.MappingNode, name: str) -> dict[str, object]:
    found: dict[str, object] = {}
    lines: dict[str, int] = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == f"{_TAG}merge":
            raise _Refused(key, f"{name or 'the mapping'} has a key that is no name; write 'name: value'")
        full = f"{name}.{key.value}" if name else key.value
        if key.value in found:
            raise _Refused(key, f"{full} stands twice, before in line {lines[key.value]}; keep one")
        found[key.value], lines[key.value] = _value(value, full), key.start_mark.line + 1
    return found


def _scalar(node: yaml.ScalarNode, name: str) -> object:
    text, kind = node.value, node.tag.removeprefix(_TAG)
    plain = node.style is None
    if kind == "str" and not (plain and _DECIMAL.fullmatch(text) and "e" in text.lower()):
        return text
    if plain and kind == "int" and _INTEGER.fullmatch(text) and len(text) < MAX_DIGITS:
        return int(text)
    if plain and kind in ("float", "str") and _DECIMAL.fullmatch(text) and math.isfinite(float(text)):
        return float(text)
    if plain and kind == "bool" and text.lower() in _TRUTH:
        return _TRUTH[text.lower()]
    if plain and kind == "null":
        return None
    said = {
        "int": "no plain whole number; write digits alone, without 0 before them",
        "float": "no plain finite number; write it as 600 or 0.5 or 1e-4",
        "str": "no plain finite number; write it as 600 or 0.5 or 1e-4",
        "bool": "neither true nor false; write one of the two",
    }.get(kind, f"a YAML {kind}; write a plain value")
    raise _Refused(node, f"{name} is {text}, {said}, or quote it if it is text")
