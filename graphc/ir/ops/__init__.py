"""The ops, by kind. Importing this package fills the registry.

In: `ir.opdef`. Out: every op by name (`ops.tanh`), and `REGISTRY`.
"""

from graphc.ir.opdef import REGISTRY as REGISTRY
from graphc.ir.ops.contract import contract as contract
from graphc.ir.ops.cumulative import cumulative_max as cumulative_max
from graphc.ir.ops.cumulative import cumulative_min as cumulative_min
from graphc.ir.ops.cumulative import recurrence as recurrence
from graphc.ir.ops.fused import fused as fused
from graphc.ir.ops.indexing import gather as gather
from graphc.ir.ops.indexing import scatter_add as scatter_add
from graphc.ir.ops.loop import cond as cond
from graphc.ir.ops.loop import scan as scan
from graphc.ir.ops.loop import while_ as while_
from graphc.ir.ops.pointwise import cast as cast
from graphc.ir.ops.pointwise import mul as mul
from graphc.ir.ops.pointwise import select as select
from graphc.ir.ops.random import threefry0 as threefry0
from graphc.ir.ops.random import threefry1 as threefry1
from graphc.ir.ops.reduce import reduce_sum as reduce_sum
from graphc.ir.ops.view import broadcast as broadcast
from graphc.ir.ops.view import concat as concat
from graphc.ir.ops.view import const as const
from graphc.ir.ops.view import iota as iota
from graphc.ir.ops.view import pad as pad
from graphc.ir.ops.view import reshape as reshape
from graphc.ir.ops.view import slice_ as slice_
from graphc.ir.ops.view import transpose as transpose
