"""API keys: a file of hashes, each with the tenant whose items its holder may see.

Knows no request.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Keys:
    """Tenants by the SHA-256 of their keys; None lets everyone in, as the tenant ""."""

    tenants: Mapping[str, str] | None

    @classmethod
    def from_file(cls, path: str | None) -> Keys:
        """Lines of `SHA-256-in-hex tenant`, and comments after #. ValueError names a line that is neither.

        A line for a key is made by `printf %s "$KEY" | sha256sum`.
        """
        if path is None:
            return cls(None)
        if not Path(path).is_file():
            raise ValueError(f"keys: no file {path}")
        tenants: dict[str, str] = {}
        for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
            said = line.partition("#")[0].strip()
            if not said:
                continue
            found = re.fullmatch(r"([0-9a-fA-F]{64})(?:\s+(\S.*))?", said)
            if found is None:
                raise ValueError(f"{path}, line {number}: expected a SHA-256 in hex and a tenant")
            tenants[found[1].lower()] = found[2] or ""
        if not tenants:
            raise ValueError(f"{path}: no key")
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
