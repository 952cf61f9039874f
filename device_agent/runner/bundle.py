"""A runner's bundle: a directory with `runner.json` and the files that it names by sha256."""

import hashlib
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from device_agent.contracts import Blame, FulcrumError, Sha256
from device_agent.contracts.base import Wire

MANIFEST = "runner.json"
CONTRACT = 1  # of plans (`plan.py`) and answers (`output.py`); raised when an old runner cannot keep the new one
ATTENTION = "fulcrum-roped-attention"  # a kernel: attention over caches of float16 and int8
PREFIXES = "prefixes"  # a feature: snapshots of prefixes
_PLACEHOLDER = re.compile(r"\{(\w+)\}")
_ADVICE = "Build one with `fulcrum runner build`, or point --runner to another bundle."

FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+\-]{0,127}$")]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class RunnerBundleError(FulcrumError):
    """A bundle that is missing, incomplete or altered."""

    blame = Blame.USER
    slug = "runner-bundle"


class Provider(StrEnum):
    """How a runner came to be."""

    HOST = "host"
    ANDROID_NATIVE = "android-native"
    ANDROID_JAVA = "android-java"
    OTHER = "other"


class RunnerFile(Wire):
    """One file of a bundle, beside its manifest."""

    name: FileName
    sha256: Sha256
    executable: bool = False


class RunnerManifest(Wire):
    """What a runner is: `abi` says which phones can run it, `executorch` which Programs it takes.

    `argv` and the values of `env` are templates: `{dir}` is the bundle's directory on the phone, `{plan}` the plan's
    path. A manifest of the first format names an `entry`, which is started with the plan and finds its libraries
    beside itself; it reads as the template that says the same.
    """

    format: Literal[2] = 2
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._+\-]{1,64}$")]
    provider: Provider = Provider.OTHER
    abi: str
    executorch: str
    contract: int = CONTRACT
    files: Annotated[tuple[RunnerFile, ...], Field(min_length=1)]
    argv: Annotated[tuple[str, ...], Field(min_length=1)]
    env: dict[VariableName, str] = Field(default_factory=dict)
    backends: tuple[str, ...] = Field(default=(), description="Delegates that it registers; empty when not said")
    kernels: tuple[str, ...] = Field(default=(), description="Kernel libraries that it registers; empty when not said")

    features: tuple[str, ...] = Field(default=(), description="What of the contract not every runner does")

    @model_validator(mode="before")
    @classmethod
    def _from_the_first_format(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or "entry" not in given:
            return given
        modern = {name: value for name, value in given.items() if name != "entry"}
        template = {"argv": (f"{{dir}}/{given['entry']}", "{plan}"), "env": {"LD_LIBRARY_PATH": "{dir}"}}
        return template | modern

    @model_validator(mode="after")
    def _require_known_placeholders(self) -> "RunnerManifest":
        words = (*self.argv, *self.env.values())
        unknown = {name for word in words for name in _PLACEHOLDER.findall(word)} - {"dir", "plan"}
        if unknown:
            raise ValueError(f"unknown placeholder {', '.join(sorted(unknown))}; there are {{dir}} and {{plan}}")
        if not any("{plan}" in word for word in self.argv):
            raise ValueError("argv does not name {plan}")
        return self

    def command(self, directory: str, plan: str) -> tuple[list[str], dict[str, str]]:
        """(argv, environment) of one process on the phone, where the bundle lies in `directory`."""

        def fill(word: str) -> str:
            return _PLACEHOLDER.sub(lambda found: directory if found[1] == "dir" else plan, word)

        return [fill(word) for word in self.argv], {name: fill(value) for name, value in self.env.items()}


class RunnerBundle:
    """A bundle on the agent's disk, verified when it is opened."""

    def __init__(self, directory: Path) -> None:
        """Open and verify.

        Raises:
            RunnerBundleError: no manifest, one of another contract, or a file that is missing or altered.
        """
        try:
            self.manifest = RunnerManifest.model_validate_json((directory / MANIFEST).read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            raise RunnerBundleError(f"No runner bundle in {directory}.", advice=_ADVICE) from None
        except ValidationError as error:
            raise RunnerBundleError(f"{directory / MANIFEST} is malformed: {error}", advice=_ADVICE) from None
        if self.manifest.contract != CONTRACT:
            raise RunnerBundleError(
                f"The runner {self.manifest.id} in {directory} keeps contract {self.manifest.contract}; "
                f"this version of Fulcrum speaks contract {CONTRACT}.",
                advice="Build the runner with this version of Fulcrum: `fulcrum runner build`.",
            )
        self.directory = directory
        for file in self.manifest.files:
            self._verify(file)

    def _verify(self, file: RunnerFile) -> None:
        path = self.directory / file.name
        if path.is_symlink():
            raise RunnerBundleError(f"{path} is a link; a bundle holds its files itself.", advice=_ADVICE)
        if not path.is_file() or hash_of(path) != file.sha256:
            raise RunnerBundleError(f"{path} is missing or not what the manifest names.", advice=_ADVICE)

    @property
    def id(self) -> Sha256:
        """The bundle's name by its content: sha256 of its manifest."""
        return hashlib.sha256(self.manifest.model_dump_json().encode()).hexdigest()

    @property
    def label(self) -> str:
        """How the runner is named in measurements."""
        return f"{self.manifest.id} (ExecuTorch {self.manifest.executorch})"


def hash_of(path: Path) -> Sha256:
    """sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(directory: Path, manifest: RunnerManifest) -> RunnerBundle:
    """Write the manifest of files that lie in `directory`, last, and open the bundle."""
    (directory / MANIFEST).write_text(manifest.model_dump_json(indent=2) + "\n")
    return RunnerBundle(directory)
