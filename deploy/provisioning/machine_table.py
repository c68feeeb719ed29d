"""CPUs, GPUs, memory and processor of the clouds' machine types."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from deploy.provisioning.field_table import TABLES

ARM, X86 = "arm64", "x86_64"
TABLE_OF = {"aws": "table of 2026-01", "azure": "table of 2026-03", "gcp": "list of 2026-11"}
"""The age of what is known, for messages. AWS's and Azure's: tables/machines.csv."""


@dataclass(frozen=True)
class Machine:
    """What is known of a machine type."""

    name: str
    cpus: int | None = None
    gpus: int | None = None
    memory_gib: float | None = None
    processor: str | None = None  # ARM or X86


@cache
def machines(cloud: str) -> Mapping[str, Machine]:
    """The machine types of `aws` or `azure` that the table names."""
    with (TABLES / "machines.csv").open(encoding="utf-8", newline="") as file:
        file.readline()  # the source
        rows = [row for row in csv.reader(file) if row[0] == cloud]
    return {row[1]: _of_row(cloud, *row[1:]) for row in rows} | {
        name: Machine(name, cpus, gpus, None, X86) for name, (cpus, gpus) in _RETIRED[cloud].items()
    }


_RETIRED: Mapping[str, Mapping[str, tuple[int, int]]] = {
    "aws": {
        "p2.xlarge": (4, 1), "p2.8xlarge": (32, 8), "p2.16xlarge": (64, 16), "g2.2xlarge": (8, 1),
        "g2.8xlarge": (32, 4), "g3s.xlarge": (4, 1), "g3.4xlarge": (16, 1), "g3.8xlarge": (32, 2),
        "g3.16xlarge": (64, 4),
    },
    "azure": {
        f"Standard_{name}": (cpus, gpus)
        for cpus, gpus in ((6, 1), (12, 2), (24, 4))
        for name in (f"NC{cpus}", f"NC{cpus}s_v2", f"ND{cpus}s", f"NV{cpus}")
    },
}  # fmt: skip
"""CPUs and GPUs of types that the table no longer names, and that examples still do."""


def aws_machine(name: str) -> Machine:
    """A machine type of AWS; of an unknown one its processor, which its family names."""
    return machines("aws").get(name) or Machine(name, processor=_aws_family(name).processor)


def _of_row(
    cloud: str, name: str, cpus: str, memory_gib: str, gpus: str, processor: str
) -> Machine:
    if not cpus:  # a name alone
        return _aws_family(name)
    number: int | None = int(gpus)
    if cloud == "azure" and re.match(r"Standard_N[PGV]", name):
        number = None  # parts of a GPU, or chips that are none
    if name.startswith("dl"):
        number = None  # Gaudi, which is no GPU of Ray's
    return Machine(name, int(cpus), number, float(memory_gib), ARM if processor == "arm64" else X86)


def _aws_family(name: str) -> Machine:
    """A type of AWS whose numbers are in no table: what its name says."""
    family, _, size = name.partition(".")
    match = re.fullmatch(r"([a-z]+)(\d+)([a-z-]*)", family)
    if match is None:  # u-6tb1, mac-m4
        return Machine(name)
    kind, generation, rest = match.groups()
    # Of older generations, some sizes break the rule; hpc* are sized by cores.
    ruled = kind in ("c", "m", "r", "t", "g", "i") and int(generation) >= 5
    times = re.fullmatch(r"(\d*)xlarge", size)
    cpus = 4 * int(times[1] or 1) if times and ruled else 2 if ruled and size == "large" else None
    gpus = 0 if kind in ("c", "m", "r", "t", "i", "x", "d", "hpc") else None
    processor = ARM if "g" in rest.partition("-")[0] else None
    return Machine(name, cpus, gpus, None, processor)


# --- Google Cloud ---------------------------------------------------------------------------------

_GIB_PER_CPU = {
    "standard": 4.0, "highmem": 8.0, "highcpu": 2.0,
    "n1-standard": 3.75, "n1-highmem": 6.5, "n1-highcpu": 0.9,
    "n2-highcpu": 1.0, "n2d-highcpu": 1.0, "e2-highcpu": 1.0, "c2d-highcpu": 2.0,
    "m1-megamem": 14.9, "m1-ultramem": 24.03,
}  # fmt: skip
"""At most, by family and class, or by class."""
_SMALL = {"e2-micro": (2, 1.0), "e2-small": (2, 2.0), "e2-medium": (2, 4.0),
          "f1-micro": (1, 0.6), "g1-small": (1, 1.7)}  # fmt: skip
_A2_CPUS = {"highgpu": 12, "megagpu": 6, "ultragpu": 12}  # for each GPU
_A3_CPUS = {1: 26, 2: 52, 4: 104, 8: 208}
_G2_GPUS = {4: 1, 8: 1, 12: 1, 16: 1, 24: 2, 32: 1, 48: 4, 96: 8}
_SIZES = {
    "e2-standard": (2, 4, 8, 16, 32), "e2-highmem": (2, 4, 8, 16), "e2-highcpu": (2, 4, 8, 16, 32),
    "n1-standard": (1, 2, 4, 8, 16, 32, 64, 96), "n1-highmem": (2, 4, 8, 16, 32, 64, 96),
    "n1-highcpu": (2, 4, 8, 16, 32, 64, 96),
    "n2-standard": (2, 4, 8, 16, 32, 48, 64, 80, 96, 128),
    "n2-highmem": (2, 4, 8, 16, 32, 48, 64, 80, 96, 128),
    "n2-highcpu": (2, 4, 8, 16, 32, 48, 64, 80, 96, 128),
    "c2-standard": (4, 8, 16, 30, 60), "t2a-standard": (1, 2, 4, 8, 16, 32, 48),
    "t2d-standard": (1, 2, 4, 8, 16, 32, 48, 60), "g2-standard": tuple(_G2_GPUS),
}  # fmt: skip
"""Of families that get no new sizes."""
_ARM_FAMILIES = ("t2a", "c4a", "n4a", "a4x")
_FAMILIES = (
    "a2", "a3", "a4", "a4x", "c2", "c2d", "c3", "c3d", "c4", "c4a", "c4d", "e2", "g2", "g4", "h3",
    "h4d", "m1", "m2", "m3", "m4", "n1", "n2", "n2d", "n4", "n4a", "n4d", "t2a", "t2d", "x4", "z3",
)  # fmt: skip
GCP_CLASSES = (
    "standard", "highmem", "highcpu", "highgpu", "megagpu", "ultragpu", "edgegpu", "maxgpu",
    "megamem", "ultramem", "hypermem",
)  # fmt: skip
TAKES_GPUS = ("n1",)
"""Families to which GPUs can be added; others have them, or have none."""
WITH_GPUS = ("a2", "a3", "a4", "a4x", "g2", "g4")


def gcp_machine(name: str, added_gpus: int | None) -> Machine:
    """A machine type of Google Cloud by its name, with its GPUs.

    Args:
        name: such as `n2-standard-8` or `n2-custom-4-8192`.
        added_gpus: sum of the node's `guestAccelerators`; None: not known.
    """
    family, _, rest = name.partition("-")
    if name in _SMALL:
        cpus, memory = _SMALL[name]
        return Machine(name, cpus, 0, memory, X86)
    custom = re.fullmatch(r"(?:(\w+)-)?custom-(?:(micro|small|medium)|(\d+))-(\d+)(-ext)?", name)
    if custom:
        family = custom[1] or "n1"
        number = 2 if custom[2] else int(custom[3])
        gpus = added_gpus if family in TAKES_GPUS else 0
        return Machine(name, number, gpus, int(custom[4]) / 1024, _processor(family))
    match = re.fullmatch(r"([a-z]+)-(\d+)(g?)(?:-\w+)*", rest)
    if match is None or family not in _FAMILIES:
        return Machine(name)
    kind, size = match[1], int(match[2])
    if match[3] or family in WITH_GPUS:
        return _gcp_with_gpus(name, family, kind, size)
    per_cpu = _GIB_PER_CPU.get(f"{family}-{kind}", _GIB_PER_CPU.get(kind))
    gpus = added_gpus if family in TAKES_GPUS else 0
    return Machine(name, size, gpus, per_cpu and per_cpu * size, _processor(family))


def _gcp_with_gpus(name: str, family: str, kind: str, size: int) -> Machine:
    """A type that comes with GPUs."""
    if family == "g2":
        return Machine(name, size, _G2_GPUS.get(size), 4.0 * size, X86)
    if family == "a2" and kind in _A2_CPUS:
        return Machine(name, _A2_CPUS[kind] * size, size, None, X86)
    if family == "a3" and kind != "ultragpu":
        return Machine(name, _A3_CPUS.get(size), size, None, X86)
    if f"{kind}-{size}g" in name:  # the size counts GPUs
        return Machine(name, None, size, None, _processor(family))
    return Machine(name, size, None, None, _processor(family))


def _processor(family: str) -> str:
    return ARM if family in _ARM_FAMILIES else X86


def gcp_sizes(name: str) -> Iterable[str]:
    """Types of the same family and class, where `name` is none of them; empty if not known."""
    family_class, _, size = name.rpartition("-")
    sizes = _SIZES.get(family_class, ())
    known = sizes and size.isdigit() and int(size) not in sizes
    return [f"{family_class}-{one}" for one in sizes] if known else []


def gcp_class_is_known(name: str) -> bool:
    """Whether the name has the form of a type of Google Cloud's, of one of its classes."""
    form = re.fullmatch(r"\w+-([a-z]+)-\d+g?(-\w+)*", name)
    is_plain = name in _SMALL or "custom-" in name or name.startswith("x4-")
    return is_plain or (form is not None and form[1] in GCP_CLASSES)


def gcp_family_is_known(name: str) -> bool:
    """Whether the name begins with a family of Google Cloud's, or may be of a newer one."""
    newer = re.fullmatch(
        r"[acefghmnxz]\d[a-z]{0,2}-(standard|high(mem|cpu|gpu))-\d+g?(-\w+)?", name
    )
    known = name in _SMALL or name.partition("-")[0] in (*_FAMILIES, "custom")
    return known or newer is not None


def looks_like_an_aws_type(name: str, known: Mapping[str, Any]) -> bool:
    """Whether an unknown name may be a type that is newer than the table."""
    family, _, size = name.partition(".")
    sizes = {one.partition(".")[2] for one in known}
    kinds = {re.match(r"[a-z]+", one)[0] for one in known}  # type: ignore[index]
    match = re.fullmatch(r"([a-z]+)(\d+)[a-z]{0,5}(-[a-z0-9]+)?", family)
    return bool(
        match and size in sizes and match[1] in kinds and int(match[2]) <= MAX_GENERATION
        and family not in {one.partition(".")[0] for one in known}
    )  # fmt: skip


MAX_GENERATION = 12
"""Of AWS's families; the highest one today is 8."""
