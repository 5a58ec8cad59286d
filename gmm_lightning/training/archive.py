"""Archives that checkpoints are, checked against the checksums that they hold."""

from __future__ import annotations

import zipfile
from pathlib import Path

from gmm_lightning._validation import format_error
from gmm_lightning.errors import CheckpointError

# Bytes read at a time, and of the record that ends an archive without a comment.
_BLOCK, _END = 1 << 20, 22


def require_intact(path: Path) -> None:
    """Compare every record of a checkpoint with its checksum, by one pass over the file.

    torch itself compares none: a changed bit would be a changed parameter.

    Raises:
        CheckpointError: a record that was changed, a file that was cut short or goes on after its
            end, or one that is no archive as torch writes it.
    """
    try:
        with path.open("rb") as file:
            file.seek(-_END, 2)
            end = file.read()
            # Anything else is found by searching, and not by all readers in the same place.
            if end[:4] != zipfile.stringEndArchive or end[-2:] != b"\0\0":
                raise zipfile.BadZipFile("it does not end where an archive ends")
            with zipfile.ZipFile(file) as archive:
                _require_records(archive)
    except OSError as error:
        # Seeking before the beginning is an error of the system, too.
        raise CheckpointError(
            f"{path} is truncated or not a torch file ({error.strerror})"
        ) from error
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
        if member.external_attr or member.internal_attr or member.is_dir():
            # The contents of what is marked as a folder torch leaves to chance.
            raise zipfile.BadZipFile("a record is marked as a folder, which torch never does")
        with archive.open(member) as record:
            while record.read(_BLOCK):
                pass
