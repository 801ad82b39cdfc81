"""Trees as the message graph of verifiers, its `Trace`, and back: `pip install 'treepo[verifiers]'`.

Problems and scores of its tasksets need nothing from here: they are a source, `verifiers:NAME` (docs/data.md).
"""

# pyright: reportMissingImports=false, reportCallIssue=false, reportArgumentType=false

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

import numpy as np

try:
    import verifiers.v1 as vf
    from verifiers.v1.configs.agent import WireAgentConfig
except ImportError as error:
    raise ImportError(
        f"treepo.integrations.verifiers needs verifiers 0.4: pip install 'treepo[verifiers]' ({error})"
    ) from error

from treepo.tree import CUT_OFF, ROOT, Node, StopReason, Tree, ids_as_text

KEY = "treepo"
"""Where `Trace.info` holds what a trace has no field for."""

TREE_FIELDS = ("num_dropped", "num_fallbacks", "weights_version")
NODE_FIELDS = tuple(f.name for f in fields(Node) if f.name not in {"parent", "token_ids", "sampled_logprobs"})


def to_trace(tree: Tree, decode: Callable[[Sequence[int]], str] | None = None) -> vf.WireTrace:
    """The tree as a `Trace` whose branches are its trajectories, in the order of `leaves`, each token in it once.

    A node becomes one message, also where a turn is divided into several: the prompt is the user's, what was sampled
    the assistant's, and what was observed has its role, or is the user's. token_ids, mask and logprobs are those of the
    tree. decode: token ids to text, for the messages; without it `tree.decode`, or the ids themselves. Write it with
    `to_record(float_decimals=None)`: by default the library rounds log-probabilities to four decimals.
    """
    decode = decode or tree.decode or ids_as_text
    order = _parents_first(tree)
    place = {index: position for position, index in enumerate(order)}
    own: dict[str, Any] = {name: getattr(tree, name) for name in TREE_FIELDS}
    own["order"] = order
    own["nodes"] = [{name: getattr(tree.nodes[i], name) for name in NODE_FIELDS} for i in order]
    calls = [
        vf.ModelCall(node=place[leaf], finish_reason="length" if tree.nodes[leaf].stop in CUT_OFF else "stop")
        for leaf in tree.leaves()
    ]
    prompt = decode(tree.prompt_ids.tolist())
    return vf.WireTrace(
        task=vf.TraceTask(type="Tree", data=vf.WireTaskData(id=tree.problem_id, prompt=prompt)),
        agent=vf.AgentInfo(config=WireAgentConfig()),
        nodes=[_message_node(tree, i, place, decode) for i in order],
        calls=calls,
        info={KEY: own},
        is_completed=True,
        ok=True,
        stop_condition="agent_completed",
    )


def from_trace(trace: vf.Trace) -> Tree:
    """The tree that `to_trace` wrote, node for node; raises ValueError for another trace."""
    own = trace.info.get(KEY)
    if own is None:
        raise ValueError(f"the trace {trace.id} was not written by to_trace: its info has no {KEY!r}")
    nodes: dict[int, Node] = {}
    for index, found, kept in zip(own["order"], trace.nodes, own["nodes"], strict=True):
        values = kept | {"stop": None if kept["stop"] is None else StopReason(kept["stop"])}
        is_sampled = index != ROOT and not kept["observed"]
        nodes[index] = Node(
            parent=-1 if found.parent is None else own["order"][found.parent],
            token_ids=np.array(found.token_ids, np.int32),
            sampled_logprobs=np.array(found.logprobs, np.float32) if is_sampled else None,
            **values,
        )
    return Tree(
        trace.task.data.id or "", [nodes[i] for i in range(len(nodes))], **{name: own[name] for name in TREE_FIELDS}
    )


def _parents_first(tree: Tree) -> list[int]:
    """All node indices in their order, but for a node that was split off later, which comes before its children."""
    order: dict[int, None] = {}
    for index in range(len(tree.nodes)):
        order |= dict.fromkeys(tree.path(index))
    return list(order)


def _message_node(
    tree: Tree, index: int, place: dict[int, int], decode: Callable[[Sequence[int]], str]
) -> vf.MessageNode:
    node = tree.nodes[index]
    ids = node.token_ids.tolist()
    is_sampled = index != ROOT and not node.observed
    message: dict[str, Any] = {"role": "assistant" if is_sampled else "user", "content": decode(ids)}
    if node.role in {"system", "tool"}:
        message |= {"role": node.role, "tool_call_id": ""} if node.role == "tool" else {"role": node.role}
    return vf.MessageNode(
        parent=None if index == ROOT else place[node.parent],
        message=message,
        sampled=is_sampled,
        token_ids=ids,
        mask=[is_sampled] * len(ids),
        logprobs=[] if node.sampled_logprobs is None else node.sampled_logprobs.tolist(),
    )
