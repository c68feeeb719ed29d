"""Values that an example has in place of the user's own."""

from __future__ import annotations

import re
from collections.abc import Iterator

from deploy.provisioning.cluster_file import ClusterFile
from deploy.provisioning.findings import Finding, to_do
from deploy.provisioning.node_fields import texts

WHOLE = re.compile(
    r"<[^<>]+>|\[?(YOUR|ENTER)_[A-Z0-9_]+\]?|[A-Z]+_NODE_(\d+_)?HOSTNAME|\.\.\."
    r"|(?i:(change|replace|fill)[-_ ]?(me|this|in)|todo|fixme|tbd|x{4,}|your[-_][a-z0-9_-]+)"
)
"""A value that is nothing else."""
WITHIN = re.compile(r"<(your|my|the)\b[^<>]*>|\bYOUR_[A-Z0-9_]+\b", re.IGNORECASE)
"""Within a command or a longer text."""
OTHERS = ("project_id", "subscription_id", "image", "head_ip")
"""Keys whose own rules report an example."""


def find_placeholders(cluster: ClusterFile) -> Iterator[Finding]:
    """Placeholders in any value of the file."""
    for index, document in enumerate(cluster.documents):
        for place, text in texts(document):
            name = place.rpartition(".")[2]
            match = None if _is_command(place) else WHOLE.fullmatch(text.strip())
            match = match or WITHIN.search(text)
            if match and not (name in OTHERS and text in ("my-project", "your-project")):
                where = f"document {index + 1}: {place}" if len(cluster.documents) > 1 else place
                yield to_do(where, match[0], "is a placeholder: put yours")


def _is_command(place: str) -> bool:
    return "_commands." in place or place.endswith("entrypoint") or ".args." in place
