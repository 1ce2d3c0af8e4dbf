"""The bytes of a picture that a request gives: base64 within it, or a URL on a host that the config allows.

A URL is the way into a private network (CWE-918, server-side request forgery), so every hop of it is checked: its host
against the list, and the addresses that the host has now, one of which is then connected to, against private ranges.
Knows no route and no image format.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import socket
from collections.abc import Collection

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

_HOPS = 3
_MOVED = {301, 302, 303, 307, 308}
_CHUNK = 65_536


class PictureReader:
    """Reads pictures of at most `most_bytes`; without `hosts` it connects to nobody."""

    def __init__(self, hosts: Collection[str], most_bytes: int, deadline_s: float) -> None:
        self._hosts, self._most_bytes = frozenset(hosts), most_bytes
        self._timeout = aiohttp.ClientTimeout(total=deadline_s)

    async def __call__(self, image: str) -> bytes:
        """The picture's bytes, still encoded as an image. ValueError says why there are none."""
        if image[:8].lower().startswith(("http://", "https://")):
            try:
                return await self._fetched(image)
            except (aiohttp.ClientError, OSError) as error:  # a time-out is an OSError too
                raise ValueError(f"image cannot be fetched ({type(error).__name__})") from None
        try:
            return base64.b64decode(image, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("image is not base64") from None

    async def _fetched(self, text: str) -> bytes:
        url = self._allowed(URL(text))
        # IPv4 alone: IPv6 has many ways to write an IPv4 address of one's own network.
        connector = aiohttp.TCPConnector(resolver=_PublicOnly(), family=socket.AF_INET)
        async with aiohttp.ClientSession(connector=connector, timeout=self._timeout, auto_decompress=False) as session:
            for _ in range(_HOPS):
                async with session.get(url, allow_redirects=False) as answer:
                    if answer.status == 200:
                        return await self._body(answer)
                    if answer.status not in _MOVED or "location" not in answer.headers:
                        raise ValueError(f"image cannot be fetched (status {answer.status})")
                    url = self._allowed(url.join(URL(answer.headers["location"])))
        raise ValueError(f"image cannot be fetched (more than {_HOPS - 1} redirects)")

    def _allowed(self, url: URL) -> URL:
        plain = url.scheme in ("http", "https") and url.is_default_port() and not (url.user or url.password)
        if not plain or url.host not in self._hosts:
            raise ValueError("image: pictures are not fetched from there; send base64")
        return url

    async def _body(self, answer: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for chunk in answer.content.iter_chunked(_CHUNK):
            body += chunk
            if len(body) > self._most_bytes:
                raise ValueError(f"image has more than {self._most_bytes} bytes")
        return bytes(body)


class _PublicOnly(AbstractResolver):
    """Names to addresses, all of which are public: what is connected to is what was checked."""

    def __init__(self) -> None:
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """As aiohttp asks it. ValueError if an address is of a private, local or other special range."""
        found = await self._resolver.resolve(host, port, family)
        addresses = [ipaddress.ip_address(one["host"]) for one in found]
        if not all(address.is_global and not address.is_multicast for address in addresses):
            raise ValueError("image: pictures are not fetched from there; send base64")
        return found

    async def close(self) -> None:
        """Nothing is held."""
