# SPDX-License-Identifier: Apache-2.0
"""The command `wsfleet`, also `python -m wsfleet`."""

import os
import sys
import traceback

from . import config, log, server


def main() -> int:
    """Run a server process; return its exit code: 0, 1 (can't listen), 2 (bad setting) or 70 (forced)."""
    try:
        settings = config.parse(sys.argv[1:], os.environ)
        log.configure(settings.log_format, settings.log_level)
        return server.run(settings)
    except config.SettingError as error:
        if error.__cause__ is not None:  # a bug in the handler's module: its author needs to know where
            traceback.print_exception(error.__cause__)
        sys.stderr.write(f"wsfleet: {error}\n")
        return 2


if __name__ == "__main__":
    sys.exit(main())
