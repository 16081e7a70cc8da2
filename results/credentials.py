"""Refuses storage URIs that hold a secret."""

from __future__ import annotations

import re

# `s3://KEY:SECRET@bucket`; a port is followed by a slash, as in `hdfs://host:9000/who@home`
_USERINFO = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://[^/@?]*:(?!\d+/)[^@?]*@")
_PARAMETER = re.compile(
    r"[?&]([^=&]*(?:access_key|secret|password|token|credential|account_key|signature)[^=&]*)=",
    re.IGNORECASE,
)


def refuse_secret(uri: str) -> str:
    """`uri` if it holds no credentials. Raises ValueError, which does not repeat them."""
    parameter = _PARAMETER.search(uri) if "://" in uri else None
    if not _USERINFO.match(uri) and parameter is None:
        return uri
    held = "before the @" if parameter is None else f"as {parameter[1]}="
    raise ValueError(
        f"this {uri.partition(':')[0]}:// URI holds credentials {held}, which would be written "
        "into files and logs; leave them out, and give them as AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, ~/.aws/credentials or the machine's role"
    )
