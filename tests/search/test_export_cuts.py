"""The cuts change how long an export takes; that they change not one byte is in test_export_template.py."""

from contextlib import nullcontext

import pytest
from executorch.backends.xnnpack._passes import XNNPACKPassManager
from executorch.exir.debug_handle_utils import get_greatest_ancestor_node_identifier
from torch.fx import Graph
from torch.fx.traceback import NodeSource, NodeSourceAction

from search.errors import UnknownToolchain
from search.export import cuts


def test_a_nodes_first_ancestor_is_kept_however_often_it_is_copied() -> None:
    nodes = [Graph().placeholder(name) for name in ("first", "second", "third")]
    plain: list[list[NodeSource]] = [[], []]
    for kept, context in zip(plain, (nullcontext, cuts.cuts), strict=True):
        with context():
            for node in nodes:
                node.meta["from_node"] = list(kept)
                kept[:] = [NodeSource(node, "a pass", NodeSourceAction.CREATE)]
    ancestors = []
    for (source,) in plain:
        nodes[0].meta["from_node"] = [source]
        ancestors.append(get_greatest_ancestor_node_identifier(nodes[0]))
    assert ancestors == [f"first.{id(nodes[0].graph)}", "first.0"]
    assert plain[0][0].from_node[0].from_node
    assert not plain[1][0].from_node[0].from_node


def test_nothing_stays_cut() -> None:
    before = NodeSource.__init__, XNNPACKPassManager.transform

    def fail() -> None:
        with cuts.cuts():
            assert NodeSource.__init__ is not before[0]
            assert XNNPACKPassManager.transform is not before[1]
            raise RuntimeError("within")

    with pytest.raises(RuntimeError, match="within"):
        fail()
    assert (NodeSource.__init__, XNNPACKPassManager.transform) == before
    assert not hasattr(NodeSource, "__deepcopy__")


def test_every_pass_that_may_be_skipped_exists() -> None:
    known = {one.__name__ for one in XNNPACKPassManager(None).passes}
    assert cuts.SKIPPED_UNLESS.keys() <= known


@pytest.mark.parametrize(("library", "version"), [("executorch", "1.5.1"), ("torch", "2.14.0")])
def test_other_versions_are_refused(library: str, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = cuts.importlib.metadata.version
    monkeypatch.setattr(cuts.importlib.metadata, "version", lambda name: version if name == library else real(name))
    with pytest.raises(UnknownToolchain, match=f"{library} {version}"), cuts.cuts():
        pass
