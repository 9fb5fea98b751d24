# SPDX-License-Identifier: Apache-2.0
"""One server process, from its start to its exit code."""

import contextlib
import importlib
import inspect
import logging
import operator
import os
import resource
import sys
from asyncio import AbstractEventLoop, Runner
from collections.abc import Callable
from importlib.util import find_spec

from . import internals
from .config import Settings, refusal, shown
from .connection import Handler, resumption_of
from .connections import Connections
from .drain import Drain
from .handover import Handover
from .health import make_process_request
from .listener import Listener, make_builder
from .metrics import Metrics, release_of

logger = logging.getLogger(__name__)


def load_handler(name: str) -> Handler:
    """Import `package.module:function`, from the working directory too; SettingError if it can't serve."""
    if not sys.flags.safe_path:
        sys.path.insert(0, "")
    module, _colon, function = name.partition(":")
    allowed = "package.module:function, an async function of one connection"
    try:
        handler: Handler = operator.attrgetter(function)(importlib.import_module(module))
    except (AttributeError, ModuleNotFoundError) as error:
        raise refusal("handler", name, f"{allowed} ({error})") from None
    except Exception as error:
        raise refusal("handler", name, f"{allowed} (its module can't be imported)") from error
    if not any(map(inspect.iscoroutinefunction, (handler, type(handler).__call__))):
        raise refusal("handler", name, allowed)
    return handler


def load_loop(name: str) -> Callable[[], AbstractEventLoop] | None:
    """The event loop's factory; None is asyncio's own. SettingError if uvloop is wanted and isn't installed."""
    installed = find_spec("uvloop") is not None
    if name == "uvloop" and not installed:
        raise refusal("loop", name, "auto or asyncio, as uvloop isn't installed")
    if name == "asyncio" or not installed:
        return None
    import uvloop

    return uvloop.new_event_loop


def raise_nofile_limit() -> None:
    """Allow as many open files, hence connections, as the system lets this process have."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def open_handover(
    settings: Settings, handler: Handler, connections: Connections, listener: Listener, metrics: Metrics
) -> Handover | None:
    """Be ready to receive and send connections; None where they can only be closed."""
    resumption = resumption_of(handler)
    if not (settings.handover and resumption) or settings.tls_key:
        return None
    if not internals.known():
        logger.warning(
            "connections will be closed, not moved: websockets %s isn't one of %s",
            internals.VERSION,
            ", ".join(internals.KNOWN),
        )
        return None
    return Handover(settings, connections, resumption, make_builder(settings, listener, metrics))


async def serve(settings: Settings, handler: Handler) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code, 1 if it's impossible to listen."""
    metrics = Metrics(release_of(os.environ))
    connections = Connections(handler, settings.max_connections, metrics)
    drain = Drain(settings, connections)
    metrics.watch(lambda: len(connections), lambda: drain.begun)
    async with contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(metrics.serve(settings.metrics_socket))
            listener = await Listener.open(
                settings,
                metrics,
                handler=drain.serve if settings.max_age else connections.serve,
                process_request=make_process_request(connections, drain),
            )
        except OSError as error:
            logger.error(
                "cannot listen on %s: %s", settings.unix_socket or f"{settings.host}:{settings.port}", error
            )
            return 1
        handover = open_handover(settings, handler, connections, listener, metrics)
        changed = " ".join(f"{name}={shown(value)}" for name, value in settings.changed().items())
        logger.info("listening on %s, settings: %s", listener, changed or "all default")
        return await drain.run(listener, handover)


def check(settings: Settings) -> None:
    """Refuse settings that go with others, without them."""
    tcp = not settings.unix_socket or settings.shared_port > 0
    for name, allowed, needed in (
        ("slot", "empty, unless --unix-socket is set", settings.unix_socket),
        ("handover", "false, unless --slot is set", settings.slot),
        ("shared_port", "0, unless --slot is set", settings.slot),
        ("tls_certificate", "empty, unless --tls-key and a TCP port are set", settings.tls_key and tcp),
        ("tls_key", "empty, unless --tls-certificate is set", settings.tls_certificate),
    ):
        value = getattr(settings, name)
        if value and not needed:
            raise refusal(name, shown(value), allowed)


def run(settings: Settings) -> int:
    """Load what the settings name, then serve; SettingError if it can't be loaded."""
    check(settings)
    handler, loop = load_handler(settings.handler), load_loop(settings.loop)
    raise_nofile_limit()
    with Runner(loop_factory=loop) as runner:
        return runner.run(serve(settings, handler))
