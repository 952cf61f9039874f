"""Which cores a block runs on: named sets, from the clusters that the phone has."""

from collections.abc import Mapping

from device_agent.android import Cluster
from device_agent.contracts import Blame, CoreSet, FulcrumError, Placement, Protocol


class CoresUnknown(FulcrumError):
    """The Protocol names cores that the phone has not, or that cannot be told apart."""

    blame = Blame.USER
    slug = "cores-unknown"


def place(protocol: Protocol, clusters: Mapping[str, Cluster], kinds: Mapping[int, str]) -> Placement | None:
    """The cores, mask and threads of a Protocol on this phone; None where it leaves placement to the scheduler.

    Raises:
        CoresUnknown: the phone does not say which cores are fast, or has not those that were named.
    """
    if protocol.cores is None:
        return None
    own = {core for cluster in clusters.values() for core in cluster.cores}
    if not own:
        raise CoresUnknown(
            "The phone does not let us read its clusters, so no cores can be named.", advice="Set cores to null."
        )
    cores = set(protocol.cores) if isinstance(protocol.cores, tuple) else named_cores(protocol.cores, clusters)
    if not cores <= own:
        raise CoresUnknown(
            f"The phone has no core {', '.join(map(str, sorted(cores - own)))}.",
            advice=f"Its cores are {', '.join(map(str, sorted(own)))}.",
        )
    chosen = tuple(sorted(cores))
    return Placement(
        cores=chosen,
        mask=f"{sum(1 << core for core in chosen):x}",
        threads=protocol.threads or len(chosen),
        kinds=tuple(dict.fromkeys(kinds[core] for core in chosen if core in kinds)),
    )


def named_cores(name: CoreSet, clusters: Mapping[str, Cluster]) -> set[int]:
    """big: the clusters with the highest clock. all: all of them. big+mid: all but the lowest, if three speeds exist;
    with two it is big.
    """
    speeds = sorted({cluster.highest_khz for cluster in clusters.values()})
    floor = {"all": speeds[0], "big": speeds[-1], "big+mid": speeds[min(1, len(speeds) - 1)]}[name]
    return {core for cluster in clusters.values() if cluster.highest_khz >= floor for core in cluster.cores}
