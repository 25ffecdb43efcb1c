"""What a computation costs: floating-point operations, bytes that must be moved, and how often its loops turn.

In: a graph, or the region of a fused node, for numbers that no schedule changes, the numerators of a roofline (Williams,
Waterman & Patterson, Roofline, Communications of the ACM 52(4), 2009); a plan for those of one schedule.
"""

from __future__ import annotations

from math import prod

from graphc.ir.graph import Graph, Node
from graphc.ir.kernel import Call, For, If, Kernel, Let, Stmt
from graphc.ir.kernel_bounds import Interval, Space
from graphc.ir.ops.contract import dimensions
from graphc.ir.plan import BranchStep, CallStep, CopyStep, LoopStep, Plan, Step, inner_plans


def operations(graph: Graph) -> int:
    """Two for each product that a contraction sums, one for an element of any other arithmetic; regions count as theirs.

    >>> from graphc.ir.graph import Builder
    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> x, y = build.input(f32[2, 3], "x"), build.input(f32[3, 4], "y")
    >>> operations(build.graph("f", [build.tanh(build.contract(x, y, axes=((1,), (0,))))]))
    56
    """
    count = 0
    for node in graph.nodes:
        if node.regions:
            inner = [operations(region) for region in node.regions]
            # a loop of unknown length counts as one step, a branch as the longer one
            count += max(inner) if node.op.name == "cond" else sum(inner) * turns(node)
        elif "contraction" in node.op.traits:
            count += 2 * prod(contraction_sizes(node))
        elif "pointwise" in node.op.traits:
            count += node.type.size
        elif "reduction" in node.op.traits:
            count += node.operands[0].type.size
    return count


def turns(node: Node) -> int:
    """How often a node runs its regions: a scan as often as it has steps, others once."""
    return node.int("length") if node.op.name == "scan" else 1


def bytes_moved(graph: Graph) -> int:
    """The bytes of what a graph reads and writes, each array once: of its inputs and outputs."""
    return sum(v.type.bytes for v in (*graph.inputs, *graph.outputs))


def contraction_sizes(node: Node) -> tuple[int, int, int, int]:
    """(batches, rows, columns, summed products of an element) of a contraction."""
    left, right = (v.type for v in node.operands)
    d = dimensions(node.attrs, left.rank, right.rank)
    return (
        prod(left.shape[i] for i in d.lhs_batch),
        prod(left.shape[i] for i in d.lhs_free),
        prod(right.shape[i] for i in d.rhs_free),
        prod(left.shape[i] for i in d.lhs_summed),
    )


def summary(region: Graph) -> str:
    """What a region does, in few words: a product is rows x columns x summed.

    >>> from graphc.ir.graph import Builder
    >>> from graphc.ir.types import f32
    >>> build = Builder()
    >>> summary(build.graph("map", [build.exp(build.input(f32[2, 3], "x"))]))
    'map 2x3, 1 pointwise'
    """
    products = [contraction_sizes(n) for n in region.nodes if "contraction" in n.op.traits]
    counts = {trait: sum(trait in n.op.traits for n in region.nodes) for trait in ("pointwise", "reduction")}
    names = [f"{b} products" if b > 1 else "product" for b, *_ in products]
    parts = [f"{name} {m}x{n}x{k}" for name, (_, m, n, k) in zip(names, products, strict=True)]
    if not parts:
        types = [v.type for n in region.nodes for v in n.results] + list(region.input_types)
        largest = max(types, key=lambda t: t.size)
        parts = [f"{region.name} {'x'.join(map(str, largest.shape)) or 'scalars'}"]
    return ", ".join([*parts, *(f"{n} {trait}" for trait, n in counts.items() if n)])


def plan_operations(plan: Plan) -> int:
    """The operations of all steps of a plan: what is computed twice counts twice."""
    return sum(map(step_operations, plan.steps))


def step_operations(step: Step) -> int:
    """The operations of one step; of a loop those of all its turns, of a branch the larger number."""
    if isinstance(step, CallStep):
        return operations(step.region)
    inner = [plan_operations(p) for p in inner_plans(step)]
    if isinstance(step, LoopStep):
        return sum(inner) * (step.count or 1)
    return max(inner, default=0)


def plan_bytes_moved(plan: Plan) -> int:
    """The bytes that the steps of a plan read and write, each array of a step once."""
    return sum(map(step_bytes_moved, plan.steps))


def step_bytes_moved(step: Step) -> int:
    """The bytes that one step reads and writes; of a loop those of all its turns, of a branch the larger number."""
    if isinstance(step, CallStep):
        return sum(b.type.bytes for b in (*step.reads, *step.writes))
    if isinstance(step, CopyStep):
        return 2 * step.source.type.bytes
    inner = [plan_bytes_moved(p) for p in step.plans]
    return sum(inner) * (step.count or 1) if isinstance(step, LoopStep) else max(inner)


def plan_iterations(plan: Plan) -> int | None:
    """How often the bodies of all loops of a plan run together, at most; None where a bound of a loop is not known.

    A copy counts as one turn for each byte, which no machine needs.
    """
    known: dict[tuple[Kernel, tuple[Interval | None, ...]], int | None] = {}

    def of_plan(plan: Plan) -> int | None:
        counts = [of_step(step) for step in plan.steps]
        return None if None in counts else sum(c for c in counts if c is not None)

    def of_step(step: Step) -> int | None:
        if isinstance(step, CallStep):
            return iterations(step.kernel, (), known)
        if isinstance(step, CopyStep):
            return step.source.type.bytes
        inner = [of_plan(p) for p in step.plans]
        found = [c for c in inner if c is not None]
        if len(found) < len(inner):
            return None
        if isinstance(step, BranchStep):
            return max(found)
        moved = sum(c.last.type.bytes for c in step.carries)
        return None if step.count is None else step.count * (1 + sum(found)) + 2 * moved

    return of_plan(plan)


def iterations(
    kernel: Kernel,
    scalars: tuple[Interval | None, ...] = (),
    known: dict[tuple[Kernel, tuple[Interval | None, ...]], int | None] | None = None,
) -> int | None:
    """How often the bodies of a kernel's loops run together, those of the kernels that it calls included, at most.

    Loops that are unrolled or lanes of a vector are none. `scalars` are the bounds of the kernel's scalar parameters.
    None where a bound depends on data.

    >>> from graphc.ir.kernel_text import parse_kernel
    >>> iterations(parse_kernel('''kernel @k(%x: f32[64] out) {
    ...   for %i = 0 to 8 step 1 serial { for %j = %i to 8 step 2 serial { store %x[%i * 8 + %j] = 0.0 } } }'''))
    40
    """
    known = {} if known is None else known
    key = (kernel, scalars)
    if key not in known:
        space = Space()
        for name, interval in zip((v.name for v in kernel.scalars), scalars, strict=False):
            space = space.with_range(name, interval and range(interval[0], interval[1] + 1))
        known[key] = _turns(kernel.body, space, known)
    return known[key]


def _turns(
    body: tuple[Stmt, ...], space: Space, known: dict[tuple[Kernel, tuple[Interval | None, ...]], int | None]
) -> int | None:
    count = 0
    for stmt in body:
        turns: int | None = 0
        if isinstance(stmt, For):
            start, stop = space.interval(stmt.start), space.interval(stmt.stop)
            if start is None or stop is None:
                return None
            # the most that any turn of the loops around sees
            most = max(0, -(-(stop[1] - start[0]) // stmt.step))
            values = range(start[0], start[0] + most * stmt.step, stmt.step)
            inner = _turns(stmt.body, space.with_range(stmt.var.name, values), known) if most else 0
            own = 0 if stmt.binding in ("unroll", "vector") else most
            times = 1 if stmt.binding == "vector" else most  # all lanes go through an inner loop at once
            turns = None if inner is None else own + times * inner
        elif isinstance(stmt, If):
            branches = [_turns(part, space, known) for part in (stmt.body, stmt.orelse)]
            turns = None if None in branches else max(b for b in branches if b is not None)
        elif isinstance(stmt, Call):
            turns = iterations(stmt.kernel, tuple(space.interval(s) for s in stmt.scalars), known)
        elif isinstance(stmt, Let):
            interval = space.interval(stmt.value) if stmt.var.dtype.name == "i64" else None
            space = space.with_range(stmt.var.name, interval and range(interval[0], interval[1] + 1))
        if turns is None:
            return None
        count += turns
    return count
