# Copyright (c) 2026 The wsfleet maintainers
# GNU General Public License v3.0 or later (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Ansible's finder of collections comes first: it doesn't find the filters of one that was imported without it."""

from __future__ import annotations

from ansible.plugins.loader import init_plugin_loader

init_plugin_loader()
