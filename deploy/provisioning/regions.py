"""Regions and zones of the clouds."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from string import ascii_lowercase
from typing import Any

from common.suggestion import suggest
from deploy.provisioning.field_table import TABLES, field_table
from deploy.provisioning.findings import Finding, error, warning

NAMES = {"aws": "AWS", "gcp": "Google Cloud", "azure": "Azure"}


@cache
def _own() -> dict[str, Any]:
    """Our own list for Google Cloud, with the letters of its zones, and for Azure.

    Both publish none in their Python packages. Zones for accelerators, such as `us-central1-ai1a`,
    are left out.
    """
    own: dict[str, Any] = json.loads((TABLES / "regions.json").read_text(encoding="utf-8"))
    return own


def regions(cloud: str) -> Sequence[str]:
    """Names of the regions of `aws`, `azure` or `gcp`."""
    return field_table("aws").regions if cloud == "aws" else list(_own()[cloud])


def find_region(cloud: str, key: str, region: object) -> Iterator[Finding]:
    """A region that the cloud has not, or probably not: it may be newer than the list."""
    region_of = f"must be a region of {NAMES[cloud]}, such as {_EXAMPLE[cloud]}"
    if not region or not isinstance(region, str):
        missing = "is missing: " if region is None else ""
        yield error(key, region, f"{missing}{region_of}")
        return
    name = region.lower().replace(" ", "") if cloud == "azure" else region
    if name in regions(cloud):
        return
    other = next((NAMES[one] for one in NAMES if one != cloud and name in regions(one)), None)
    zone_of = region_of_zone(cloud, region)
    if zone_of in regions(cloud):
        yield error(key, region, f"is a zone: must be its region, {zone_of}")
    elif other is not None:
        yield error(key, region, f"is a region of {other}: {region_of}")
    else:
        known = f"list in {field_table('aws').source}" if cloud == "aws" else _own()["source"]
        near = suggest(name, regions(cloud))
        do = near or f": {region_of}"
        yield warning(key, region, f"unknown, unless it is newer than the {known}{do}")


_EXAMPLE = {"aws": "us-west-2", "gcp": "us-west1", "azure": "westus2"}


def region_of_zone(cloud: str, zone: str) -> str:
    """The region that the name of a zone begins with; empty if it is no such name."""
    pattern = {
        # us-west-2a; us-west-2-lax-1a and us-east-1-wl1-bos-wlz-1 are zones near a city.
        "aws": r"([a-z]+(?:-[a-z]+)+-\d+)(?:[a-z]|-[a-z0-9]+-(?:[a-z0-9]+-)*\d+[a-z]?)",
        "gcp": r"([a-z]+-[a-z]+\d+)-(?:[a-z]|ai\d+[a-z])",
    }.get(cloud)
    match = re.fullmatch(pattern, zone) if pattern else None
    return match[1] if match else ""


def find_zone(cloud: str, key: str, zone: object, region: object) -> Iterator[Finding]:
    """A zone, or a part of it, that is not of the region."""
    if not isinstance(zone, str) or not isinstance(region, str) or not zone:
        yield error(key, zone, "must be the name of a zone")
        return
    of = region_of_zone(cloud, zone)
    letters = _own()["gcp"].get(region, "abc")
    example = f"{region}a" if cloud == "aws" else f"{region}-{letters[0]}"
    if not of:
        yield error(key, zone, f"is no name of a zone: must be one of {region}, such as {example}")
    elif of != region:
        yield error(key, zone, f"is in {of}: must be in the region, {region}, such as {example}")
    elif cloud == "gcp" and zone in _missing_zones(region):
        those = ", ".join(f"{region}-{letter}" for letter in letters)
        yield warning(
            key, zone, f"unknown, unless it is newer than the {_own()['source']}: {those}"
        )


def _missing_zones(region: str) -> list[str]:
    """Names of ordinary zones that a region of Google Cloud has not; empty if it is unknown."""
    letters = _own()["gcp"].get(region, ascii_lowercase)
    return [f"{region}-{letter}" for letter in ascii_lowercase if letter not in letters]
