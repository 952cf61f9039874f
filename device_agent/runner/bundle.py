"""A runner's bundle: a directory with `runner.json` and the files that it names by sha256."""

import hashlib
from pathlib import Path

from pydantic import ValidationError

from device_agent.contracts import Blame, FulcrumError, Sha256
from device_agent.contracts.base import Wire

MANIFEST = "runner.json"


class RunnerBundleError(FulcrumError):
    """A bundle that is missing, incomplete or altered."""

    blame = Blame.USER
    slug = "runner-bundle"


class RunnerFile(Wire):
    """One file of a bundle."""

    name: str
    sha256: Sha256
    executable: bool = False


class RunnerManifest(Wire):
    """What a runner is: `abi` says which phones can run it, `executorch` which Programs it takes."""

    id: str
    abi: str
    executorch: str
    files: tuple[RunnerFile, ...]
    entry: str


class RunnerBundle:
    """A bundle on the agent's disk, verified when it is opened."""

    def __init__(self, directory: Path) -> None:
        """Open and verify.

        Raises:
            RunnerBundleError: no manifest, or a file that is missing or altered.
        """
        advice = "Build one with `fulcrum runner build`, or point --runner to another bundle."
        try:
            self.manifest = RunnerManifest.model_validate_json((directory / MANIFEST).read_bytes())
        except FileNotFoundError:
            raise RunnerBundleError(f"No runner bundle in {directory}.", advice=advice) from None
        except ValidationError as error:
            raise RunnerBundleError(f"{directory / MANIFEST} is malformed: {error}", advice=advice) from None
        self.directory = directory
        for file in self.manifest.files:
            path = directory / file.name
            if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != file.sha256:
                raise RunnerBundleError(f"{path} is missing or not what the manifest names.", advice=advice)

    @property
    def label(self) -> str:
        """How the runner is named in measurements."""
        return f"{self.manifest.id} (ExecuTorch {self.manifest.executorch})"
