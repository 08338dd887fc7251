"""What a process may use, how it ends, and threads that do not wait for ever."""

from attn_deploy.processes.collection import no_collection
from attn_deploy.processes.ends import LIFELINE, death_of, die_with
from attn_deploy.processes.memory import (
    available_memory,
    give_freed_memory_back,
    large_blocks_apart,
    limit_memory,
    memory_allowance,
)
from attn_deploy.processes.threads import HelperThread

__all__ = [
    "LIFELINE",
    "HelperThread",
    "available_memory",
    "death_of",
    "die_with",
    "give_freed_memory_back",
    "large_blocks_apart",
    "limit_memory",
    "memory_allowance",
    "no_collection",
]
