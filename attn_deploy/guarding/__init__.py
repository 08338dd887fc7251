"""Public functions on files that come from elsewhere run in a process that may die; this one lives on and says how.

`attn_deploy.convert` and its like are the functions of their rooms, wrapped by `guarded`. Inside `unguarded` they run
in the caller's process.
"""

from attn_deploy.guarding.call import guarded as guarded
from attn_deploy.guarding.call import unguarded as unguarded
from attn_deploy.guarding.limits import default_memory_limit as default_memory_limit
