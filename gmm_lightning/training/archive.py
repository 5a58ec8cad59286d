"""Archives that checkpoints are, checked against the checksums that they hold."""

from __future__ import annotations

import pickletools
import re
import zipfile
from pathlib import Path

from gmm_lightning._messages import format_error
from gmm_lightning.errors import CheckpointError, GMMError

# Bytes read at a time, and of the record that ends an archive without a comment.
_BLOCK, _END = 1 << 20, 22
_START, _LAST = b"PK\x03\x04", b"PK\x05\x06"
# Of what `torch.load` calls harmless, what makes memory of a number: 10 GB of a line of text, or
# numbers of what was in memory before. No tensor of a fit is written so.
_MAKERS = re.compile(
    r"\S*builtin\S* bytearray|_codecs encode|torch\S* \w*Tensor|torch\.storage \w+"
)
# The attribute of a folder.
_FOLDER = 0x10


def require_intact(path: Path) -> None:
    """Compare every record of a checkpoint with its checksum, by one pass over the file.

    torch itself compares none: a changed bit would be a changed parameter.

    Raises:
        CheckpointError: a record that was changed, a file that was cut short or goes on after its
            end, or one that is no archive as torch writes it.
    """
    try:
        with path.open("rb") as file:
            if file.read(len(_START)) != _START:
                raise CheckpointError(
                    f"{path} is not a checkpoint of plain tensors and numbers: it is no archive as "
                    "torch writes it"
                )
            file.seek(max(0, path.stat().st_size - _END))
            end = file.read()
            # An end elsewhere is searched for, and not found in the same place by all readers.
            if end[:4] != _LAST or end[-2:] != b"\0\0":
                raise zipfile.BadZipFile("it has no end")
            with zipfile.ZipFile(file) as archive:
                _require_records(archive)
    except GMMError:
        raise
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
    except Exception as error:
        # Of a damaged header any error may come.
        raise CheckpointError(
            f"{path} is truncated, damaged or not a torch file ({format_error(error)}); take "
            "another copy of it"
        ) from error


def _require_records(archive: zipfile.ZipFile) -> None:
    """Read all records, which lets zipfile compare checksums; refuse what torch reads otherwise."""
    members = archive.infolist()
    if len({member.filename for member in members}) < len(members):
        raise zipfile.BadZipFile("two records have the same name")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != member.compress_size:
            raise zipfile.BadZipFile("a record is compressed, which torch never does")
        if member.external_attr & _FOLDER or member.is_dir():
            # Their contents torch leaves to chance.
            raise zipfile.BadZipFile("a record is marked as a folder, which torch never does")
        with archive.open(member) as record:
            while record.read(_BLOCK):
                pass


def require_plain_values(path: Path) -> None:
    """Refuse an intact checkpoint that asks for memory which it does not fill; nothing is run.

    Raises:
        CheckpointError: it does, or its list of values cannot be read.
    """
    with zipfile.ZipFile(path) as archive:
        lists = [archive.read(name) for name in archive.namelist() if name.lower().endswith(".pkl")]
    try:
        named = [
            str(name)
            for pickled in lists
            for opcode, name, _ in pickletools.genops(pickled)
            if opcode.name == "GLOBAL"
        ]
    except Exception as error:
        # Of garbage any error may come.
        raise CheckpointError(f"{path} is truncated or not a torch file") from error
    if any(map(_MAKERS.fullmatch, named)):
        raise CheckpointError(
            f"{path} is not a checkpoint of plain tensors and numbers (it asks for memory that it "
            "does not fill)"
        )
