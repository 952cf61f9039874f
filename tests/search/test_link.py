"""The linker's own rules, on programs written by hand; that a linked Program is the model is test_export.py's."""

import random

import pytest
from executorch.exir import schema
from executorch.exir._serialize._program import PTEFile, deserialize_pte_binary, serialize_pte_binary
from executorch.exir.scalar_type import ScalarType

from device_agent.contracts import StateSpec
from search.errors import NotLinkable, UnknownToolchain
from search.export import link as linking
from search.export.link import Part, link
from search.export.link_memory import Cluster, plan_memory

ROWS = 4
VECTOR = ROWS * 4


def tensor(offset: int | None = None, *, constant: int = 0, sizes: tuple[int, ...] = (ROWS,)) -> schema.EValue:
    place = None if offset is None else schema.AllocationDetails(1, offset, 0)
    return schema.EValue(
        schema.Tensor(ScalarType.FLOAT, 0, list(sizes), list(range(len(sizes))), False, 0, constant, place, 0)
    )


def kernel(op: int, *values: int) -> schema.Instruction:
    return schema.Instruction(schema.KernelCall(op, list(values)))


def pte(
    values: list[schema.EValue],
    inputs: list[int],
    outputs: list[int],
    instructions: list[schema.Instruction],
    constants: tuple[bytes, ...] = (),
    name: str = "forward",
) -> bytes:
    plan = schema.ExecutionPlan(
        name=name,
        container_meta_type=schema.ContainerMetadata("", ""),
        values=values,
        inputs=inputs,
        outputs=outputs,
        chains=[schema.Chain([], [], instructions, None)],
        operators=[schema.Operator("aten::add", "out"), schema.Operator("aten::mul", "out")],
        delegates=[],
        non_const_buffer_sizes=[0, 1024],
    )
    buffers = [schema.Buffer(b""), *(schema.Buffer(c) for c in constants)]
    program = schema.Program(0, [plan], buffers, [], [], schema.SubsegmentOffsets(0, []), None, [])
    return bytes(serialize_pte_binary(PTEFile(program), extract_delegate_segments=True))


def squares(weight: bytes, *, states: int = 0) -> bytes:
    """x -> (x * w) + x, by way of a temporary; a state is given back as it came out of the product."""
    values = [tensor(), tensor(constant=1), tensor(0), tensor(16), *(tensor() for _ in range(states))]
    outputs = [3, *((2,) if states else ())]
    return pte(values, [0, *range(4, 4 + states)], outputs, [kernel(1, 0, 1, 2), kernel(0, 2, 0, 3)], (weight,))


STATE = StateSpec(name="last", shape=(ROWS,), update="returned")


def plan_of(data: bytes) -> schema.ExecutionPlan:
    return deserialize_pte_binary(data).program.execution_plan[0]


def test_equal_constants_are_kept_once_and_operators_are_shared() -> None:
    one, other = b"\1" * VECTOR, b"\2" * VECTOR
    data, _ = link([Part(str(i), squares(w), False, ()) for i, w in enumerate((one, other, one))])
    file = deserialize_pte_binary(data).program
    assert [b.storage[:VECTOR] for b in file.constant_buffer] == [b"", one, other]
    plan = file.execution_plan[0]
    assert len(plan.operators) == 2
    weights = [plan.values[i.instr_args.args[1]].val.data_buffer_idx for i in plan.chains[0].instructions[::2]]
    assert weights == [1, 2, 1]


def test_parts_share_memory_but_what_is_returned_outlives_the_chain() -> None:
    stateless, _ = link([Part(str(i), squares(b"\1" * VECTOR), False, ()) for i in range(9)])
    assert plan_of(stateless).non_const_buffer_sizes == [0, 3 * 16]  # one handed over, one temporary, one result
    data, planned = link([Part(str(i), squares(b"\1" * VECTOR, states=1), False, (STATE,)) for i in range(9)])
    plan = plan_of(data)
    assert len(plan.inputs) == 2 + 9
    offsets = [plan.values[i].val.allocation_info.memory_offset for i in plan.outputs]
    assert len(set(offsets)) == 10
    assert planned == (9 + 2) * 16  # the states, and two vectors handed over in turn


def test_position_is_one_input_wherever_it_is_taken() -> None:
    takes = pte([tensor(), tensor(sizes=(1,)), tensor(0)], [0, 1], [2], [kernel(0, 0, 1, 2)])
    parts = [Part(str(i), takes if i else squares(b"\1" * VECTOR), bool(i), ()) for i in range(3)]
    plan = plan_of(link(parts)[0])
    assert len(plan.inputs) == 2
    assert [i.instr_args.args[1] for i in plan.chains[0].instructions[2:]] == [plan.inputs[1]] * 2
    assert len(plan_of(link(parts[:1])[0]).inputs) == 2


def test_a_view_stays_on_its_base() -> None:
    # 2 is made, 3 is a view of it; 4 takes 2's place once both are dead.
    values = [tensor(), tensor(constant=1), tensor(32), tensor(32), tensor(0), tensor(32)]
    steps = [kernel(0, 0, 1, 2), kernel(0, 2, 3), kernel(0, 3, 4), kernel(0, 4, 5)]
    part = pte(values, [0], [5], steps, (b"\1" * VECTOR,))
    plan = plan_of(link([Part("one", part, False, ())])[0])
    made = [instruction.instr_args.args[-1] for instruction in plan.chains[0].instructions]
    place = [plan.values[i].val.allocation_info.memory_offset for i in made]
    assert place[0] == place[1] != place[2]


@pytest.mark.parametrize("seed", range(20))
def test_whatever_lives_together_lies_apart(seed: int) -> None:
    draw = random.Random(seed)
    values = [tensor(0) for _ in range(40)]
    lifetimes = {i: (start := draw.randrange(60), start + draw.randrange(12)) for i in range(40)}
    clusters = [Cluster(((i, 0),), 16 * draw.randint(1, 20)) for i in range(40)]
    planned = plan_memory(values, clusters, lifetimes)
    spans = [(v.val.allocation_info.memory_offset, c.size) for v, c in zip(values, clusters, strict=True)]
    for i, (start, size) in enumerate(spans):
        assert start + size <= planned
        for j, (other, length) in list(enumerate(spans))[:i]:
            meet = lifetimes[i][0] <= lifetimes[j][1] and lifetimes[j][0] <= lifetimes[i][1]
            assert not meet or start + size <= other or other + length <= start
    busiest = max(
        sum(c.size for i, c in enumerate(clusters) if lifetimes[i][0] <= t <= lifetimes[i][1]) for t in range(72)
    )
    assert busiest <= planned <= 1.5 * busiest


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ([], "nothing to link"),
        ([Part("a", squares(b"\1" * VECTOR), True, ())], "a has 1 inputs and 1 outputs, not 2 and 1"),
        ([Part("a", squares(b"\1" * VECTOR), False, (STATE,))], "not 2 and 2"),
        ([Part("a", pte([tensor(), tensor(0)], [0], [1], [], name="other"), False, ())], "not forward"),
        (
            [Part("a", pte([tensor(), tensor(0)], [0], [1], [schema.Instruction(schema.MoveCall(0, 1))]), False, ())],
            "an instruction that is no call",
        ),
        (
            [
                Part("a", squares(b"\1" * VECTOR), False, ()),
                Part("b", pte([tensor(sizes=(5,)), tensor(0, sizes=(5,))], [0], [1], [kernel(0, 0, 1)]), False, ()),
            ],
            r"b takes sizes \[5\], but is given \[4\]",
        ),
        ([Part("a", pte([tensor()], [0], [0], []), False, ())] * 2, "no memory of its own"),
    ],
)
def test_what_does_not_fit_is_refused(parts: list[Part], why: str) -> None:
    with pytest.raises(NotLinkable, match=why):
        link(parts)


def test_another_executorch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linking, "toolchain", lambda: {"executorch": "1.5.1"})
    with pytest.raises(UnknownToolchain, match=r"executorch 1\.5\.1"):
        link([])
