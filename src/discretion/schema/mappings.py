"""YAML in which a key that comes twice is an error and not the last one's victory.

`unique(loader)` gives a safe loader that says so. Names no file: whoever reads one does.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import yaml

_MERGE = "tag:yaml.org,2002:merge"


def unique(loader: type[Any]) -> type[Any]:
    """The same loader, one of PyYAML's safe ones; it raises `yaml.constructor.ConstructorError` at the second key."""
    made = type("Unique", (loader,), {})
    made.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)  # type: ignore[attr-defined]
    return made


def _mapping(loader: Any, node: yaml.MappingNode) -> dict[Hashable, Any]:
    seen: dict[str, str] = {}
    for key, _ in node.value:
        written = str(getattr(key, "value", ""))
        name = written if key.tag == _MERGE else str(loader.construct_object(key, deep=True))
        if name in seen:
            why = f"the key {written!r} is there twice"
            if seen[name] != written:
                why = f"the keys {seen[name]!r} and {written!r} are both read as {name}: put them in quotes"
            raise yaml.constructor.ConstructorError(None, None, why, key.start_mark)
        seen[name] = written
    found: dict[Hashable, Any] = loader.construct_mapping(node, deep=True)
    return found
