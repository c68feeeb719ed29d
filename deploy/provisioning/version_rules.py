"""Rules for the versions of Ray, Python and raydqn, which must be the same everywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from typing import Any

from common.version import VERSION
from deploy.provisioning.cluster_file import ClusterFile, get_nested, local_path, pod_specs
from deploy.provisioning.findings import Finding, error, warning
from deploy.provisioning.setup_rules import installs

_RAY_PIN = re.compile(r"\bray(?:\[[\w,-]+\])?==([\w.]+)")
_RAY_IMAGE = re.compile(r"(?:rayproject/ray[\w-]*:|\bray-?)(\d+\.\d+\.\d+)")
_PROJECT_PIN = re.compile(r"\braydqn(?:\[[\w,-]+\])?==([\w.]+)|/raydqn:(\d+\.\d+\.\d+)")
_PYTHON = re.compile(r"\bpython(\d)\.(\d+)\b|-py(\d)(\d+)\b")
_PIN_FILES = {
    "constraints.txt": re.compile(r"\bconstraints\.txt\b"),
    "nodes.lock": re.compile(r"\bnodes\.lock\b|\bclusters/install\.sh\b"),
}
"""By name of a file that pins Ray: its mention in a command that installs by it."""


def find_versions(cluster: ClusterFile) -> Iterator[Finding]:
    """Versions in the commands of a file for `ray up`, its images, and the files that pin Ray."""
    values = cluster.values
    everywhere = set(values["head_setup_commands"]) & set(values["worker_setup_commands"])
    texts = [
        ("setup_commands" if command in everywhere else key, command)  # Ray has merged them
        for key in ("initialization_commands", "head_setup_commands", "worker_setup_commands")
        for command in values[key]
    ]
    docker = {**values["docker"]}
    texts += [(f"docker.{key}", str(docker[key])) for key in docker if key.endswith("image")]
    for name, node_type in values["available_node_types"].items():
        image = get_nested(node_type, "docker", "worker_image")
        texts += [(f"available_node_types.{name}.docker.worker_image", image)] if image else []
        texts += [
            (f"available_node_types.{name}.worker_setup_commands", command)
            for command in node_type.get("worker_setup_commands", ())
        ]
    commands = "\n".join(text for _, text in texts)
    for file in _pin_files(values["file_mounts"], commands):
        lines = local_path(file).read_text(errors="replace").splitlines()
        texts += [(file, line) for line in lines if line.startswith("ray==")]
    yield from _compare(texts)
    everything = [text for _, text in texts]
    in_containers = any(key.startswith("docker.") and text for key, text in texts)
    if not in_containers and not installs(everything) and "ray" not in " ".join(everything):
        return  # nothing is installed, which setup_rules reports
    if not any(_RAY_PIN.search(text) or _RAY_IMAGE.search(text) for _, text in texts):
        yield warning(
            "setup_commands",
            None,
            f"pin no version of Ray: must install ray=={_version('ray')}, as here",
        )


def _pin_files(mounts: Mapping[str, Any], commands: str) -> Iterator[str]:
    """Local paths of the mounted files by which `commands` choose the version of Ray."""
    for name, mention in _PIN_FILES.items():
        if not mention.search(commands):
            continue
        paths = [str(source) for target, source in mounts.items() if target.endswith(name)]
        below = (name, f"clusters/{name}", f"deploy/clusters/{name}")
        paths = paths or [f"{source}/{path}" for source in mounts.values() for path in below]
        yield from (path for path in paths if local_path(path).is_file())


def _compare(texts: list[tuple[str, str]]) -> Iterator[Finding]:
    """Versions in commands and names of images that differ from those of this machine."""
    seen = set()
    for key, text in texts:
        for name, pattern in (("ray", _RAY_PIN), ("ray", _RAY_IMAGE), ("raydqn", _PROJECT_PIN)):
            here = _version(name)
            for groups in pattern.findall(text):
                found = groups if isinstance(groups, str) else next(filter(None, groups))
                if here and found != here and (name, found) not in seen:
                    seen.add((name, found))
                    yield error(key, f"{name} {found}", f"must be {here}, as here")
        for groups in _PYTHON.findall(text):
            major, minor = (int(part) for part in groups if part)
            if not _takes_python(major, minor) and ("python", minor) not in seen:
                seen.add(("python", minor))
                yield error(key, f"python {major}.{minor}", f"must be {_pythons()}")


@cache
def _version(name: str) -> str | None:
    if name == "raydqn":
        return VERSION
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _pythons() -> str:
    """Versions of Python that the project supports, from its metadata."""
    try:
        return metadata.metadata("raydqn")["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        return ""


def _takes_python(major: int, minor: int) -> bool:
    bounds = re.findall(r"(>=|<)(\d+)\.(\d+)", _pythons())
    return all(
        ((major, minor) >= (int(a), int(b))) == (operator == ">=") for operator, a, b in bounds
    )


def find_image_versions(cluster: ClusterFile) -> Iterator[Finding]:
    """Versions in a file of KubeRay, whose pods install nothing."""
    spec, here = cluster.values, _version("ray")
    version = spec.get("rayVersion")
    if version is None:
        yield error("rayVersion", None, f"is missing: must be {here}, as here")
    elif str(version) != here:
        yield error("rayVersion", version, f"must be {here}, as here")
    images = [
        (f"{key}.image", str(pod["containers"][0].get("image", ""))) for key, pod in pod_specs(spec)
    ]
    yield from _compare(images)
    for key, image in images:
        if not _RAY_IMAGE.search(image):
            yield warning(key, image, f"names no version of Ray: must contain ray{here}")
        # -cpu: the same image with torch's CPU build (deploy/clusters/Dockerfile).
        if image.removesuffix("-cpu") != images[0][1].removesuffix("-cpu"):
            yield warning(key, image, f"must be the image of the head, {images[0][1]}")
