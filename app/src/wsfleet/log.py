# SPDX-License-Identifier: Apache-2.0
"""Log lines on stderr, plain or JSON."""

import json
import logging
from datetime import UTC, datetime


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time (UTC), level, logger, pid, message and, if there is one, exception."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry)


def configure(style: str, level: str) -> None:
    """Log to stderr from `level` up, as `style` "plain" or "json".

    The library reports each handshake, health checks too, at level info: it is heard from warning up,
    except when debugging.
    """
    output = logging.StreamHandler()
    output.setFormatter(
        JsonFormatter()
        if style == "json"
        else logging.Formatter("%(asctime)s %(levelname)s %(name)s[%(process)d]: %(message)s")
    )
    logging.basicConfig(level=level.upper(), handlers=[output])
    if level == "info":
        logging.getLogger("websockets").setLevel(logging.WARNING)
