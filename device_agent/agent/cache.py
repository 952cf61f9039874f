"""Artifacts that were downloaded once: files named by their sha256."""

from pathlib import Path
from secrets import token_hex

from device_agent.agent.client import ServerClient
from device_agent.contracts import Program, Sha256


class ArtifactCache:
    """A directory of artifacts. A file there is whole and was verified, for it gets its name last."""

    def __init__(self, directory: Path, client: ServerClient) -> None:
        self._directory = directory
        self._client = client

    def sweep(self) -> None:
        """Remove what processes that were killed left half downloaded; only while nobody downloads."""
        for path in self._directory.glob("*/*.*"):
            path.unlink(missing_ok=True)

    def files_of(self, program: Program) -> dict[Sha256, Path]:
        """Every file of a Program, downloaded if it is not here.

        Raises:
            ServerUnavailable, ServerRefused, ArtifactDamaged: see `ServerClient.download`.
        """
        return {name: self._get(name, size) for name, size in program.files.items()}

    def _get(self, name: Sha256, size: int) -> Path:
        place = self._directory / name[:2] / name
        if place.is_file() and place.stat().st_size == size:
            return place
        place.parent.mkdir(parents=True, exist_ok=True)
        scratch = place.with_name(f"{name}.{token_hex(4)}")
        try:
            self._client.download(name, scratch)
            scratch.replace(place)
        finally:
            scratch.unlink(missing_ok=True)
        return place
