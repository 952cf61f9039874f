"""The service's settings: from arguments, or from the environment as FULCRUM_*."""

import ipaddress
from pathlib import Path
from typing import Self

from pydantic import Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from server.errors import InsecureSettings

GIB = 1 << 30


class Settings(BaseSettings):
    """Read once at the start and passed in; nothing keeps a global copy.

    Raises:
        InsecureSettings: a host other than loopback without a token.
    """

    model_config = SettingsConfigDict(env_prefix="FULCRUM_", frozen=True, extra="ignore")

    home: Path = Field(default=Path(".fulcrum"), description="Data directory")
    database_url: str = Field(
        default="",
        description="SQLAlchemy URL, e.g. postgresql://user:password@host/fulcrum; default is SQLite in the home",
    )
    optuna_storage: str = Field(
        default="", description="SQLAlchemy URL of an Optuna storage that gets a copy of every search's trials"
    )
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65_535)
    token: SecretStr | None = Field(default=None, description="Bearer token that every request must carry")
    lease_seconds: float = Field(default=30.0, gt=0, description="A lease lapses this long after the last heartbeat")
    attempts: int = Field(default=3, ge=1, description="Leases that a job gets before it fails")
    quarantine_after: int = Field(default=3, ge=1, description="Phone faults in a row that quarantine the phone")
    quarantine_seconds: float = Field(
        default=600.0, ge=0, description="How long a phone is quarantined before a passed health check ends it"
    )
    queue_seconds: float = Field(
        default=1800.0, gt=0, description="How long a job waits for a phone that is not usable"
    )
    max_artifact_bytes: int = Field(default=16 * GIB, gt=0)
    min_free_bytes: int = Field(default=GIB // 4, ge=0, description="Free disk space that storing must leave")

    @model_validator(mode="after")
    def _network_needs_token(self) -> Self:
        if not self.loopback and self.token is None:
            raise InsecureSettings(
                f"host {self.host} is reachable from the network, but no token is set",
                advice="Set FULCRUM_TOKEN to a long random value, or bind to 127.0.0.1.",
            )
        return self

    @property
    def loopback(self) -> bool:
        """Whether only this host can reach the service."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def url(self) -> str:
        """The database's URL; a `postgresql://` URL is given the psycopg 3 driver."""
        if not self.database_url:
            return f"sqlite:///{self.home.resolve() / 'fulcrum.db'}"
        scheme, separator, rest = self.database_url.partition("://")
        driver = "postgresql+psycopg" if scheme in ("postgresql", "postgres") else scheme
        return f"{driver}{separator}{rest}"

    @property
    def artifacts(self) -> Path:
        """Where content-addressed bytes lie."""
        return self.home / "artifacts"
