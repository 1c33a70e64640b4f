"""What the world can do to a run, as exceptions. Wrong arguments raise ``TypeError`` and ``ValueError`` instead.

Every message reads ``<what>: expected <contract>, got <actual>; <what to do>``.
"""

from __future__ import annotations


class GradsiftError(Exception):
    """Base of all errors of this package that are not about an argument's type or value."""


class BackendUnavailableError(GradsiftError):
    """A backend was named that cannot run here; the message says what is missing."""


class DeviceError(GradsiftError):
    """A kernel could not be launched, or one before it failed; names the kernel, its sizes and the device."""


class DeviceMemoryError(DeviceError):
    """A device has no memory left."""


class DependencyMissingError(GradsiftError):
    """An optional dependency is not installed; the message holds the ``pip install`` line that brings it."""


class DataError(GradsiftError):
    """Input data cannot be used; the message lists file, line and reason."""


class MomentsError(GradsiftError):
    """Optimizer state does not belong to the model; the message names the parameters that differ."""


class CollectError(GradsiftError):
    """Per-sample gradients cannot be formed for this model or batch."""


class DiskFullError(GradsiftError):
    """There is no room for a file; nothing of it was written, and what it would have replaced is intact."""


class DatastoreError(GradsiftError):
    """Base of what can be wrong with a gradient datastore."""


class DatastoreIncompleteError(DatastoreError):
    """Rows are missing; the message lists the ranges."""


class DatastoreCorruptError(DatastoreError):
    """Bytes fail their checksum or contradict each other; names file, offset or block, expected and found."""


class DatastoreVersionError(DatastoreError):
    """The store needs another version of the format or a feature that this version does not have."""


class DatastoreExistsError(DatastoreError):
    """A store or shard is already there and was not asked to be resumed, or differs from what would be written."""


class DatastoreSpaceError(DatastoreError, DiskFullError):
    """The disk is full; says how many bytes were needed. What was committed before is intact."""


class SpecMismatchError(DatastoreError):
    """Two stores, or a store and a run, do not belong together; the message prints the fields that differ."""


class ConfigError(GradsiftError):
    """A configuration file or a run directory does not say what it must; names the key and the line to change."""
