"""Ports that answer as those of a Ray cluster do."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc

CLIENTS, CONTROL = "/ray.rpc.RayletDriver/ClusterInfo", "/ray.rpc.NodeInfoGcsService/CheckAlive"


class OnePort(grpc.GenericRpcHandler):
    """A port of Ray's that serves one method, to clients with the token."""

    def __init__(self, method, token):
        self._method, self._token = method, token

    def service(self, details):
        if details.method != self._method:
            return None

        def answer(request, context):
            if dict(details.invocation_metadata).get("authorization") != f"Bearer {self._token}":
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "Invalid token")
            return b""

        return grpc.unary_unary_rpc_method_handler(answer)


@contextmanager
def one_port(method, token="t" * 64):
    """HOST:PORT of it."""
    server = grpc.server(ThreadPoolExecutor(1), [OnePort(method, token)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
