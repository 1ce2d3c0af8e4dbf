"""API keys: hashes in a file or a variable, each with the tenant whose items its holder may see.

Knows no request.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_OF_NOTHING = hashlib.sha256(b"").hexdigest()


@dataclass(frozen=True)
class Keys:
    """Tenants by the SHA-256 of their keys; None lets everyone in, as the tenant ""."""

    tenants: Mapping[str, str] | None

    @classmethod
    def found(cls, where: str | None) -> Keys:
        """From a file, or as `env:NAME` from the environment: lines of `SHA-256-in-hex tenant`, and comments after #.

        A line for a key is made by `printf %s "$KEY" | sha256sum`. ValueError names a line that is neither.
        """
        if where is None:
            return cls(None)
        if where.startswith("env:"):
            text = os.environ.get(where.removeprefix("env:"))
            if text is None:
                raise ValueError(f"keys: no variable {where.removeprefix('env:')} in the environment")
        elif Path(where).is_file():
            text = Path(where).read_text(encoding="utf-8")
        else:
            raise ValueError(f"keys: no file {where}")
        tenants: dict[str, str] = {}
        for number, line in enumerate(text.splitlines(), 1):
            said = line.partition("#")[0].strip()
            if not said:
                continue
            found = re.fullmatch(r"([0-9a-fA-F]{64})(?:\s+(\S.*))?", said)
            if found is None:
                raise ValueError(f"{where}, line {number}: expected a SHA-256 in hex and a tenant")
            if found[1].lower() == _OF_NOTHING:
                raise ValueError(f"{where}, line {number}: the SHA-256 of nothing; was the variable empty?")
            tenants[found[1].lower()] = found[2] or ""
        if not tenants:
            raise ValueError(f"{where}: no key")
        return cls(tenants)

    def tenant_of(self, key: str | None) -> str | None:
        """The tenant of a key's holder; None for one who may see nothing."""
        if self.tenants is None:
            return ""
        given = hashlib.sha256((key or "").encode("utf-8", "surrogateescape")).hexdigest()
        found = None
        for known, tenant in self.tenants.items():  # all of them: the time taken tells nothing
            if hmac.compare_digest(known, given):
                found = tenant
        return found
