"""Runs the service: ``python examples/service/serve.py --port 8000 --workers 4``.

The same as ``uvicorn app:app --workers 4``, but for the socket: uvicorn (0.54) makes one that asyncio does
not know for TCP, and so leaves waiting for acknowledgements on. That adds 40 ms to each request after the
first of a connection (https://github.com/Kludex/uvicorn/issues/3149).
"""

from __future__ import annotations

import argparse
import os
import socket

import uvicorn
from uvicorn.supervisors import Multiprocess


def main() -> None:
    """Listen, and run the workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--workers", type=int, default=int(os.environ.get("WEB_CONCURRENCY", "1")))
    parser.add_argument("--log-level", default="info")
    arguments = parser.parse_args()
    os.environ["WEB_CONCURRENCY"] = str(arguments.workers)  # the workers share the cores
    family = socket.AF_INET6 if ":" in arguments.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((arguments.host, arguments.port))
        listening.set_inheritable(True)
        config = uvicorn.Config(
            "app:app", workers=arguments.workers, access_log=False, log_level=arguments.log_level
        )
        if arguments.workers > 1:
            Multiprocess(config, sockets=[listening]).run()
        else:
            uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
