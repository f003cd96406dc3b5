# SPDX-License-Identifier: MIT OR Apache-2.0
"""What the benchmarks of images read on demand share: tree, origin, mounts, reads.

Knows how a measurement is made, not what is measured (`lazy.py`, `nydus.py`) nor of whom.
"""
