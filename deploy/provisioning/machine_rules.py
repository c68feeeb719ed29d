"""Rules for the machine of a node type: resources, processor and disk, whichever its cloud."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from common.text import counted
from deploy.provisioning.findings import Finding, error, warning
from deploy.provisioning.machine_table import ARM, TABLE_OF, X86, Machine

CPU_DISK_GB = {"the system": 5, "raydqn with torch for CPUs": 2, "downloads and Ray's files": 3}
GPU_DISK_GB = {
    "the system with NVIDIA's driver": 10,
    "raydqn with torch for CUDA": 6,
    "downloads and Ray's files": 9,
}
"""What a node's disk holds, in GB. raydqn's share was measured: docs/clusters.md."""
_PROCESSOR_WORDS = {ARM: r"arm64|aarch64", X86: r"x86[-_]64|amd64"}

PUBLIC_CONTAINERS = re.compile(
    r"((docker|nvcr)\.io/)?(rayproject|library|nvidia|pytorch|tensorflow|anyscale|continuumio)/"
    r"|(python|ubuntu|debian|rockylinux|fedora)(:|@|$)"
)
"""Images of containers that hold no raydqn."""


@dataclass(frozen=True)
class NodeFacts:
    """What the file says of one node type."""

    place: str  # of the node type in the file
    cloud: str
    machine_key: str  # below `place`
    machine: Machine
    resources: Mapping[str, Any]
    image_key: str  # below `place`
    image: object  # None: the cloud's, Ray's or a template's
    processor: str | None  # of the image, as far as its name tells
    disk_key: str = ""  # below `place`
    disk_gb: object = None  # of the system's disk; None: the image's size
    container: str = ""  # image of the node's container


def processor_in(text: object) -> str | None:
    """The processor that the name of an image names; None if it names none, or both."""
    found = [
        processor
        for processor, words in _PROCESSOR_WORDS.items()
        if re.search(rf"(?<![a-z0-9])({words})(?![a-z0-9])", str(text).lower())
    ]
    return found[0] if len(found) == 1 else None


def container_processor(image: str) -> str | None:
    """The processor of a container's image, as far as its name tells."""
    named = processor_in(image)
    # Ray's own images for arm64 have names that end in -aarch64.
    return X86 if named is None and image.startswith("rayproject/ray") else named


def find_machine_mistakes(facts: NodeFacts) -> Iterator[Finding]:
    """Resources that the machine lacks, an image of another processor, a small disk."""
    yield from _resources(facts)
    yield from _processor(facts)
    yield from _disk(facts)


def _resources(facts: NodeFacts) -> Iterator[Finding]:
    machine, place = facts.machine, f"{facts.place}.resources"
    filled_in = facts.cloud == "aws" and "GPU" not in facts.resources  # by Ray, from EC2's answer
    for name, has in (("CPU", machine.cpus), ("GPU", machine.gpus)):
        given = facts.resources.get(name, 0)
        if has is None or not isinstance(given, (int, float)):
            continue
        amount = counted(has, name) if has else f"no {name}"
        source = f"{machine.name} has {amount} ({TABLE_OF[facts.cloud]})"
        if given > has:
            most = f"at most {has}" if has else "0"
            other = "" if has else f", or {facts.machine_key} a machine that has one"
            yield error(f"{place}.{name}", given, f"{source}: must be {most}{other}")
        elif name == "GPU" and given < has and not filled_in:
            do = f"must be {has}, or {facts.machine_key} a machine with fewer"
            yield warning(f"{place}.GPU", given, f"{source}, all of which are paid for: {do}")
    given, memory = facts.resources.get("memory"), machine.memory_gib
    if memory is not None and isinstance(given, (int, float)) and given > memory * 2**30:
        yield error(
            f"{place}.memory",
            given,
            f"{machine.name} has {memory:g} GiB ({TABLE_OF[facts.cloud]}): must be at most "
            f"{counted(int(memory * 2**30), 'byte')}, less what the system needs",
        )


def _processor(facts: NodeFacts) -> Iterator[Finding]:
    of_machine = facts.machine.processor
    if of_machine is None:
        return
    has = f"{facts.machine.name} has an {of_machine} processor"
    do = f"put an image for {of_machine}, or another {facts.machine_key.rpartition('.')[2]}"
    if facts.processor not in (None, of_machine):
        image = facts.image if facts.image is not None else "Ray's default"
        yield error(
            f"{facts.place}.{facts.image_key}", image, f"is for {facts.processor}: {has}: {do}"
        )
    of_container = container_processor(facts.container)
    if of_container not in (None, of_machine):
        yield error(
            f"docker.image of {facts.place}",
            facts.container,
            f"is for {of_container}: {has}: {do}",
        )


def _disk(facts: NodeFacts) -> Iterator[Finding]:
    try:
        size = float(str(facts.disk_gb))
    except ValueError:
        return
    parts = GPU_DISK_GB if facts.resources.get("GPU") or facts.machine.gpus else CPU_DISK_GB
    least = sum(parts.values())
    if 0 < size < least:
        terms = " + ".join(f"{gb} GB for {what}" for what, gb in parts.items())
        yield error(
            f"{facts.place}.{facts.disk_key}",
            facts.disk_gb,
            f"is too small: must be at least {least} GB ({terms})",
        )
