# SPDX-License-Identifier: Apache-2.0
"""An offer of a connection, as small as it can be."""

from wsfleet.packets import Offer

OFFER = Offer(
    id="a",
    version=0,
    session={},
    opened_at=0.0,
    frozen_at=0.0,
    path="/",
    request=[],
    response=[],
    subprotocol="",
    username="",
    deflate=[],
)
