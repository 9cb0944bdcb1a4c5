#!/usr/bin/python3
"""A gRPC server without generated code: an echo service and the health service.

It needs the Debian package python3-grpcio, and therefore Debian's interpreter.
"""

import os
import signal
import sys

# First of all: importing grpc takes a while, and a TERM that comes meanwhile
# must end the process at once, not when everything is up.
signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

from concurrent import futures  # noqa: E402

try:
    import grpc  # noqa: E402
except ImportError:
    sys.exit("rpc.py: the Python module grpc is missing: sudo apt install python3-grpcio")

SERVICE = "example.Echo"
SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}


def field1(message):
    """Return field 1, a string, of a short protobuf message."""
    if len(message) < 2 or message[0] != 0x0A or message[1] >= 0x80:
        return b""
    return message[2 : 2 + message[1]]


def check(request, context):
    """grpc.health.v1.Health/Check."""
    if field1(request).decode() not in ("", SERVICE):
        context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
    return SERVING


def say(request, _context):
    """example.Echo/Say answers with what it gets."""
    return request


class Handlers(grpc.GenericRpcHandler):
    """Messages go in and out as bytes: nothing is generated, nothing is parsed."""

    methods = {"/grpc.health.v1.Health/Check": check, f"/{SERVICE}/Say": say}

    def service(self, call):
        method = self.methods.get(call.method)
        return grpc.unary_unary_rpc_method_handler(method) if method else None


def tell_ready(port):
    """Write the port to the file that the supervisor waits for.

    It is written elsewhere and renamed, so that nobody ever sees half of it.
    """
    path = os.environ.get("PITVISOR_READY_FILE")
    if path:
        with open(path + ".new", "w") as f:
            f.write(f"{port}\n")
        os.rename(path + ".new", path)


def main():
    # gRPC shares a port with whoever asks for the same one (SO_REUSEPORT) unless
    # it is told not to: two workers would both believe that it is theirs.
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4), options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((Handlers(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    # Requests in flight get a second to end; then wait_for_termination returns.
    signal.signal(signal.SIGTERM, lambda *_: server.stop(grace=1))
    print(f"serving {SERVICE} on 127.0.0.1:{port}", flush=True)
    tell_ready(port)
    server.wait_for_termination()


if __name__ == "__main__":
    main()
