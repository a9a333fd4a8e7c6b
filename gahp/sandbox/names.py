"""What names mean: where an output lands, what a remap matches, which file a URL becomes. Pure; knows nothing of real files.

The rules are HTCondor's: its manual, "File Transfer", and `filename_remap_find` in its source (an exact match first, then the
directories above, and the target of one remap may be the source of another).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from urllib.parse import unquote_to_bytes, urlsplit

from gahp.model import Refused, to_bytes, to_text

DISCARD = ("", "/dev/null")

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_S3_OBJECT = re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9._-]{1,254}/[^\x00-\x1f\x7f]*[^\x00-\x1f\x7f/]")
# HTCondor's manual, on S3 URLs: s3://BUCKET.s3.REGION.amazonaws.com/KEY; and s3://HOST/KEY, whose key begins with the bucket.
_S3_HOST = re.compile(r"(?:([a-z0-9][a-z0-9.-]*)\.)?s3[.-](?:[a-z0-9-]+\.)?amazonaws\.com(?:\.cn)?/", re.IGNORECASE)
_USER_LOG = re.compile(rb"\d{3} \(\d+\.\d+\.\d+\) \S")
_XML_LOG = re.compile(rb"""\s*(<\?xml[^>]*>\s*)?(<!DOCTYPE[^>]*>\s*)?(<classads>\s*)?<c>\s*<a n="(MyType|EventTypeNumber)">""")
_JSON_LOG = re.compile(rb'\s*\{[^{}]*"EventTypeNumber"\s*:')


def is_url(name: str) -> bool:
    return _URL.match(name) is not None


def is_user_log(start: bytes) -> bool:
    """Whether a file that starts so is an HTCondor user log: classic, XML or JSON."""
    return any(form.match(start) for form in (_USER_LOG, _XML_LOG, _JSON_LOG))


def plain_url(url: str) -> str:
    """An S3 URL as s3://BUCKET/KEY, also if it was written in HTCondor's other form, with a host of AWS; any other as it is."""
    scheme, _, rest = url.partition("://")
    if scheme.lower() != "s3":
        return url
    host = _S3_HOST.match(rest)
    if host is not None:
        rest = (f"{host[1]}/" if host[1] else "") + rest[host.end() :]
    return f"s3://{rest}"


def url_name(url: str) -> str:
    """The file that a URL of TransferInput becomes: the last part of its path; percent-decoded for http, not for s3, whose keys
    are written as they are, blanks included."""
    if re.search(r"[\x00-\x1f\x7f]", url) or (" " in url and not url.startswith("s3://")):
        raise Refused(f"The input URL {url} has a space or control character in it: write it percent-encoded.")
    scheme = url.partition(":")[0].lower()
    if scheme == "s3":
        if not _S3_OBJECT.fullmatch(url):
            raise Refused(f"The input URL {url} names no S3 object: write s3://BUCKET/KEY, with no slash at the end.")
        return _file_name(url, url.rpartition("/")[2])
    if scheme not in ("http", "https"):
        raise Refused(f"The input URL {url} cannot be fetched: only http, https and s3 URLs can; transfer the file itself.")
    raw = urlsplit(url).path.rpartition("/")[2]
    decoded = to_text(unquote_to_bytes(to_bytes(raw)))
    return _file_name(url, raw if "/" in decoded or "\0" in decoded else decoded)


def _file_name(url: str, name: str) -> str:
    if name in ("", ".", ".."):
        raise Refused(f"The input URL {url} has no file name at its end: name one file.")
    return name


def output_name(written: str) -> str:
    """A name of TransferOutput in one form: relative to the scratch directory, no `.`, no `..`; with a slash at the end it means
    the contents of a directory, "/" alone those of the scratch directory itself. Raises Refused for what leads elsewhere."""
    if "\0" in written:
        raise Refused(f"The output {written} has a NUL byte in its name: no file can.")
    if written.startswith("/"):
        raise Refused(
            f"The output {written} in transfer_output_files is an absolute name: name it relative to the scratch directory."
        )
    name = posixpath.normpath(written)
    if name == ".." or name.startswith("../"):
        raise Refused(
            f"The output {written} in transfer_output_files leads out of the scratch directory: remove the ../ from it."
        )
    if name == ".":
        return "/"
    return name + "/" if written.endswith(("/", "/.")) else name


def landing(output: str, name: str) -> str | None:
    """Where `name` (relative to the scratch directory) lands in Iwd when `output` (as from output_name) was declared.

    A file b/c.out lands as c.out, a directory x/d as d/, the contents of a directory at the top. None: `output` does not cover
    it; "": the directory whose contents were declared.
    """
    if output.endswith("/"):
        top = output.rstrip("/")
        if name == top:
            return ""
        if not top:
            return name
        return name[len(top) + 1 :] if name.startswith(top + "/") else None
    base = output.rpartition("/")[2]
    if name == output:
        return base
    return base + name[len(output) :] if name.startswith(output + "/") else None


def rules(remaps: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Remaps by source name, S3 URLs in one form; of two for one name the first counts, as in HTCondor."""
    found: dict[str, str] = {}
    for source, target in remaps:
        found.setdefault(posixpath.normpath(source), plain_url(target))
    return found


def remap(table: Mapping[str, str], name: str, seen: frozenset[str] = frozenset()) -> str | None:
    """What `table` (as from rules) makes of `name`, or None. A target that is itself remapped is followed, not in a circle."""
    if name in seen:
        return None
    target = table.get(name)
    if target is not None:
        if is_url(target) or target == name:
            return target
        return None if target in seen else remap(table, target, seen | {name}) or target
    parent, _, entry = name.rpartition("/")
    above = remap(table, parent, seen) if parent else None
    return None if above is None else above.rstrip("/") + "/" + entry


def target_of(remaps: Mapping[str, str], written: str, lands: str) -> str:
    """The place of an output: the remap of its name as written, else of the name it lands under, else that name."""
    found = remap(remaps, written) if written else None
    if found is None and lands:
        found = remap(remaps, lands)
    if found is None:
        return lands
    return found + lands.rpartition("/")[2] if found.endswith("/") else found


def runner_remaps(remaps: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The remaps for the runner, which serves those that end at S3: name and final URL, or "-" for a place on the submit host."""
    table = rules(remaps)
    finals = ((source, remap(table, source) or "") for source in table)
    return [(source, final if final.startswith("s3://") else "-") for source, final in finals]


def check_remap_url(source: str, target: str) -> None:
    """Raise Refused when a remap leads to a URL that the runner cannot write to."""
    if not target.startswith("s3://"):
        raise Refused(f"The output {source} is remapped to {target}: only local paths and s3:// URLs can be written to.")
    if not _S3_OBJECT.fullmatch(target.rstrip("/")):
        raise Refused(f"The output {source} is remapped to {target}, which names no S3 object: write s3://BUCKET/KEY.")
