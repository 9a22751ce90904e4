"""Unpacks a downloaded zip into a folder, completely or not at all.

    unpack(Path("data/competition/titanic.zip"), Path("data/competition/titanic"))
"""
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath

from core.errors import OperationError
from core.files import discard, written_folder

# Images hardly compress, tables tenfold, zeros a thousandfold: anything above this is a zip bomb.
ALWAYS_ALLOWED, MOST_EXPANSION = 2**30, 20  # bytes; times the archive's size


def unpack(archive: Path, folder: Path, fetched: bool = True) -> None:
    """Replaces `folder` by the archive's content.

    OperationError if the archive is damaged or would write elsewhere, make links or fill the disk; then everything
    unpacked is removed, and the archive too if this command `fetched` it. UserError if the folder holds files that are
    not from an archive.
    """
    removed = "removed" if fetched else "not removed, so delete it"
    try:
        with zipfile.ZipFile(archive) as content:
            members = content.infolist()
            problem = next(filter(None, map(misplaced, members)), None) or too_large(members, archive)
            if problem:
                raise OperationError(f"{archive}: refused and {removed}: {problem}")
            room = shutil.disk_usage(archive.parent).free
            total = sum(member.file_size for member in members)
            if total > room:
                raise OSError(f"{archive}: unpacks to {total / 1e9:.1f} GB, but the disk has {room / 1e9:.1f} GB left")
            sums = {member.filename: member.CRC for member in members}

            def same(name: str) -> bool:
                return zlib.crc32((folder / name).read_bytes()) == sums.get(name)

            with written_folder(folder, same) as part:
                content.extractall(part)
    except OperationError:
        if fetched:
            discard(archive)
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
        if fetched:
            discard(archive)
        raise OperationError(f"{archive}: {removed}, not a complete zip archive ({error}); run the command again"
                             ) from None


def misplaced(member: zipfile.ZipInfo) -> str | None:
    """Why a member must not be written, or None."""
    posix, windows = PurePosixPath(member.filename), PureWindowsPath(member.filename)
    if posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        return f"{member.filename} points outside the archive's folder"
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return f"{member.filename} is a link or a device"
    return None


def too_large(members: list[zipfile.ZipInfo], archive: Path) -> str | None:
    """Why the members together must not be written, or None."""
    # zipfile never writes more of a member than its declared size.
    total = sum(member.file_size for member in members)
    allowed = archive.stat().st_size * MOST_EXPANSION + ALWAYS_ALLOWED
    if total > allowed:
        return f"it would unpack to {total / 1e9:.1f} GB, from {archive.stat().st_size / 1e9:.3f} GB: a zip bomb"
    return None
