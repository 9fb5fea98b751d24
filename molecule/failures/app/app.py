"""An echo that fails in the way that the environment variable FAULT says."""

import importlib
import os
import sys
import threading
import time

from websockets.asyncio.server import ServerConnection

FAULT = os.environ.get("FAULT", "")

if FAULT == "exits":
    sys.exit("the database is away")
if FAULT == "import":
    importlib.import_module("a_module_that_is_not_there")
if FAULT == "never healthy":
    time.sleep(3600)
if FAULT.startswith("slow"):
    time.sleep(20)
if FAULT == "dies":
    threading.Timer(4, os._exit, [1]).start()


async def handler(connection: ServerConnection) -> None:
    async for message in connection:
        await connection.send(message)
