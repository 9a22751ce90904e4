"""Explains a proxy in the environment that a client cannot use: the variable, the fault, the remedy; never its value.

    proxy_fault("Missing dependencies for SOCKS support.")    # -> "ALL_PROXY names a socks5 proxy, for which …"
"""
import os
import re
from urllib.parse import urlsplit

VARIABLES = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "http_proxy", "HTTP_PROXY")
# What requests and httpx say about a proxy that they cannot use.
REASONS = re.compile(r"SOCKS (support|proxy)|proxy URL|Invalid port|Failed to parse", re.IGNORECASE)
UNKNOWN = re.compile("Unknown scheme|unsupported scheme", re.IGNORECASE)


def proxy_fault(reason: str) -> str | None:
    """One line if a client failed with `reason` because of a proxy that is set; None if something else is the cause."""
    if not REASONS.search(reason):
        return None
    faults = ((name, _fault(os.environ[name], reason)) for name in VARIABLES if os.environ.get(name))
    return next((f"{name} {fault}" for name, fault in faults if fault), None)


def _fault(value: str, reason: str) -> str | None:
    try:
        parts = urlsplit(value if "//" in value else f"//{value}")
        scheme, whole = parts.scheme.lower() or "http", bool(parts.hostname) and parts.port != 0
    except ValueError:  # e.g. a port that is not a number
        whole = False
    if not whole or "@" in parts.path + parts.fragment:
        return ("is not of the form http://host:port; correct or unset it (special characters in a password are "
                "written as %23 and the like)")
    if scheme in ("http", "https"):
        return None
    if UNKNOWN.search(reason) or not scheme.startswith("socks"):
        return f"names a {scheme} proxy, which cannot be used here; set it to an http:// or socks5:// proxy"
    package = "socksio" if "socksio" in reason else "PySocks"
    return (f"names a {scheme} proxy, which needs the Python package {package}; `pip install {package}` in the virtual "
            "environment, or set it to an http:// proxy")
