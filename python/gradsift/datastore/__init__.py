"""The gradient datastore: a directory of immutable, checksummed shards of sketches (docs/datastore-format.md).

Knows bytes and NumPy, keeps the spec of the rows as a record, and imports no torch.
"""

from __future__ import annotations

from gradsift.datastore.arrange import MergeReport, append_stores, merge_stores, remove_leftovers, subset_store
from gradsift.datastore.block import Block
from gradsift.datastore.compare import check_comparable, spec_differences
from gradsift.datastore.convert import convert
from gradsift.datastore.export import export_store
from gradsift.datastore.format import rotation_seed
from gradsift.datastore.less import LessImport, import_less
from gradsift.datastore.reader import Datastore
from gradsift.datastore.report import ShardReport, VerifyReport
from gradsift.datastore.rows import encode_rows
from gradsift.datastore.shard import Damage
from gradsift.datastore.table import FLAG_NO_LABELS, FLAG_NONFINITE, FLAG_ZERO
from gradsift.datastore.writer import DatastoreWriter

__all__ = [
    "FLAG_NONFINITE",
    "FLAG_NO_LABELS",
    "FLAG_ZERO",
    "Block",
    "Damage",
    "Datastore",
    "DatastoreWriter",
    "LessImport",
    "MergeReport",
    "ShardReport",
    "VerifyReport",
    "append_stores",
    "check_comparable",
    "convert",
    "encode_rows",
    "export_store",
    "import_less",
    "merge_stores",
    "remove_leftovers",
    "rotation_seed",
    "spec_differences",
    "subset_store",
]
