#!/usr/bin/env python3
# Copyright: The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A package index of one's own: serves the folder /srv by HTTPS, with /srv/index.pem as certificate and key."""

import functools
import http.server
import ssl

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/srv/index.pem")
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="/srv")
server = http.server.ThreadingHTTPServer(("", 8443), handler)
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
