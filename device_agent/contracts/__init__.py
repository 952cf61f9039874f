"""The wire types: what can be measured, what comes back, and what a phone is.

Every other room may import this package; it imports none of them.
"""

from device_agent.contracts.errors import Blame, Fault, FulcrumError
from device_agent.contracts.jobs import (
    CheckJob,
    Failure,
    GenerateJob,
    Job,
    JobOutcome,
    Lease,
    LeaseHeartbeat,
    LeaseRequest,
    LeaseResult,
    LeaseState,
    MeasureJob,
    Success,
)
from device_agent.contracts.measurement import (
    Block,
    Condition,
    Generation,
    Measurement,
    Protocol,
    TokenStep,
    Transfer,
)
from device_agent.contracts.phone import (
    AgentReport,
    HealthCheck,
    HealthItem,
    PhoneFacts,
    PhoneState,
    Route,
    Sighting,
    Vitals,
    WorkerProcess,
)
from device_agent.contracts.profile import Figure, Profile
from device_agent.contracts.program import (
    Program,
    Quantisation,
    Sha256,
    StageSpec,
    StateSpec,
    canonical_json,
    content_hash,
)
from device_agent.contracts.selfcheck import CheckName, CheckStep, Golden, SelfCheck

__all__ = [
    "AgentReport",
    "Blame",
    "Block",
    "CheckJob",
    "CheckName",
    "CheckStep",
    "Condition",
    "Failure",
    "Fault",
    "Figure",
    "FulcrumError",
    "GenerateJob",
    "Generation",
    "Golden",
    "HealthCheck",
    "HealthItem",
    "Job",
    "JobOutcome",
    "Lease",
    "LeaseHeartbeat",
    "LeaseRequest",
    "LeaseResult",
    "LeaseState",
    "MeasureJob",
    "Measurement",
    "PhoneFacts",
    "PhoneState",
    "Profile",
    "Program",
    "Protocol",
    "Quantisation",
    "Route",
    "SelfCheck",
    "Sha256",
    "Sighting",
    "StageSpec",
    "StateSpec",
    "Success",
    "TokenStep",
    "Transfer",
    "Vitals",
    "WorkerProcess",
    "canonical_json",
    "content_hash",
]
