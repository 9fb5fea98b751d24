# SPDX-License-Identifier: Apache-2.0
"""A handler's module that can't be imported."""

raise RuntimeError("cannot be imported")
